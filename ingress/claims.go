package ingress

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"shoal/lb"
	"shoal/model"
)

// Claimer keeps which services publish which ports, so that a change costs by its
// own size. The zero Claimer is ready. One goroutine at a time may use it.
type Claimer struct {
	snap  *model.Snapshot              // the last one
	held  map[lb.Key]model.ServiceID   // by whom ports are claimed
	wants map[lb.Key][]want            // by port
	ports map[model.ServiceID][]lb.Key // of services that publish any
}

// Claims says which ports of the routing mesh this host should claim in the
// catalog and which it should release there, each by a transaction, and which
// ports its services cannot have. It is a function of the Snapshot alone.
//
// A port is the service's that claimed it first, on every host. It keeps it
// while any of its tasks, wherever, publishes it, lost ones included: they may
// go on somewhere a partition hides them. Then the first live host releases it,
// and so does each that runs a task which publishes it too: a host is held for
// alive while its agent is down, and whoever waits for the port is not to wait
// for that agent. Releasing it twice does no harm. An unclaimed port is claimed
// by the hosts that run a task which publishes it; if several services want
// one, they agree to claim it for that whose task has been running longest. One
// that the policy of this host refuses is not claimed by it; nil: it refuses none.
func (c *Claimer) Claims(snap *model.Snapshot, policy *Policy) (claim, release []model.PortClaim, problems []model.Problem) {
	c.update(snap)
	held, wants := c.held, c.wants
	for p, ws := range wants {
		holder, taken := held[p]
		if !taken {
			i := slices.IndexFunc(ws, func(w want) bool { return w.alive })
			if i < 0 {
				continue
			}
			holder = ws[i].service
			if err := policy.Refuse(p); err != nil {
				for _, w := range ws {
					if w.local {
						problems = append(problems, model.Problem{
							Node: snap.Self.Name, Code: model.CodeOf(err, model.PublishRefused), Kind: "service", Object: w.service.String(),
							Reason: fmt.Sprintf("publish %s for %s: %s", p, w.service, err), Since: w.since,
						})
					}
				}
				continue
			}
			if ws[i].local {
				claim = append(claim, model.PortClaim{Protocol: p.Protocol, Port: p.Port, Service: holder})
			}
		}
		for _, w := range ws {
			if w.local && w.service != holder {
				problems = append(problems, model.Problem{
					Node: snap.Self.Name, Code: model.PortTaken, Kind: "service", Object: w.service.String(),
					Reason: fmt.Sprintf("publish %s for %s: already claimed by %s; publish another port, or remove that service", p, w.service, holder),
					Since:  w.since,
				})
			}
		}
	}
	isFirst := first(snap) == snap.Self.Name
	for _, p := range snap.Published {
		ws := wants[lb.Key{Protocol: p.Protocol, Port: p.Port}]
		needed := slices.ContainsFunc(ws, func(w want) bool { return w.service == p.Service })
		awaited := slices.ContainsFunc(ws, func(w want) bool { return w.local })
		if !needed && (isFirst || awaited) {
			release = append(release, p)
		}
	}
	order := func(a, b model.PortClaim) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	}
	slices.SortFunc(claim, order)
	slices.SortFunc(release, order)
	slices.SortFunc(problems, func(a, b model.Problem) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Reason, b.Reason))
	})
	return claim, release, problems
}

// holders are the services that have claimed a port.
func holders(snap *model.Snapshot) map[lb.Key]model.ServiceID {
	held := make(map[lb.Key]model.ServiceID, len(snap.Published))
	for _, c := range snap.Published {
		held[lb.Key{Protocol: c.Protocol, Port: c.Port}] = c.Service
	}
	return held
}

// want is a service that publishes a port.
type want struct {
	service model.ServiceID
	since   time.Time // the start of the first of its tasks that does
	local   bool      // one of them is on this host
	alive   bool      // one of them is on a live host
}

// update takes in what changed with a Snapshot.
func (c *Claimer) update(snap *model.Snapshot) {
	changed, known := snap.ServicesSince(c.snap)
	if c.snap == nil || !model.Shared(c.snap.Published, snap.Published) {
		c.held = holders(snap)
	}
	c.snap = snap
	if !known {
		c.wants, c.ports = map[lb.Key][]want{}, map[model.ServiceID][]lb.Key{}
		for _, s := range snap.Services {
			c.put(s, snap.Self.Name)
		}
	}
	for _, id := range changed {
		for _, p := range c.ports[id] {
			if ws := slices.DeleteFunc(c.wants[p], func(w want) bool { return w.service == id }); len(ws) > 0 {
				c.wants[p] = ws
			} else {
				delete(c.wants, p)
			}
		}
		delete(c.ports, id)
		if s, ok := snap.Service(id); ok {
			c.put(s, snap.Self.Name)
		}
	}
}

// put adds what a service publishes, in the order in which services come to have a
// port.
func (c *Claimer) put(s *model.Service, self string) {
	wants := map[lb.Key]*want{}
	for _, t := range s.Tasks {
		for _, pub := range t.Spec.Publish {
			p := lb.Key{Protocol: pub.Protocol, Port: pub.Published}
			w := wants[p]
			if w == nil {
				w = &want{service: s.ID, since: t.Started}
				wants[p] = w
				c.ports[s.ID] = append(c.ports[s.ID], p)
			}
			if t.Started.Before(w.since) {
				w.since = t.Started
			}
			w.local = w.local || t.Node == self
			w.alive = w.alive || t.State != model.Lost
		}
	}
	for p, w := range wants {
		at, _ := slices.BinarySearchFunc(c.wants[p], *w, want.compare)
		c.wants[p] = slices.Insert(c.wants[p], at, *w)
	}
}

// compare orders wants as services come to have a port.
func (w want) compare(o want) int {
	return cmp.Or(w.since.Compare(o.since), w.service.Compare(o.service))
}

// first is the first of the live hosts, by name.
func first(snap *model.Snapshot) string {
	name := snap.Self.Name
	for _, n := range snap.Nodes {
		if n.Alive && n.Name < name {
			name = n.Name
		}
	}
	return name
}
