package dockerwatch

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"

	"shoal/kernel/sockets"
	"shoal/model"
)

// A process does not listen as soon as its container has started. A task that no
// HEALTHCHECK speaks for enters rotation when its ports first accept connections, or
// after a limit; from then on, for as long as its container runs, its ports do not
// matter: whether a process is well is the HEALTHCHECK's to say.
//
// Which ports those are:
//
//   - The TCP targets of shoal.ports and shoal.publish, each of them. Ranges do not
//     count beside single ports: they are for ports that a process opens as needed
//     (FTP, media). Of ranges alone, one port will do.
//   - Without TCP targets, those of UDP: a socket has to be bound there, as UDP has
//     nothing to connect to.
//   - Without either, the ports that the image exposes: any of them, as images expose
//     what some settings of theirs use. After exposedTime, whatever listens will do,
//     for the settings may have named another port.
//   - Where nothing is exposed, whatever listens.
//
// SCTP targets alone make a task ready at once, and so does the host's network where
// no port is known: what listens there is everybody's.
const exposedTime = 5 * time.Second

const (
	maxExposed = 64    // ports of one container
	ephemeral  = 32768 // where clients' ports begin: a UDP socket from there on says nothing
)

// plan is what makes a task ready. The zero value: nothing, it is ready.
type plan struct {
	proto   model.Protocol // of all and any
	all     []uint16       // each must accept connections, or for UDP be bound
	any     []uint16       // one of them must
	listens bool           // whatever listens will do; where there is any, after exposedTime
}

func (p *plan) empty() bool { return len(p.all)+len(p.any) == 0 && !p.listens }

// planOf is what makes a task of the container ready. onHost tells that it uses the
// host's network.
func planOf(s *serviceLabels, exposed []model.Port, onHost bool) plan {
	named := len(s.spec.Ports)+len(s.spec.Publish) > 0
	for _, proto := range []model.Protocol{model.TCP, model.UDP} {
		all, any := s.targets(proto)
		if !named {
			any = targetsOf(exposed, proto)
		}
		switch {
		case len(all) > 0:
			return plan{proto: proto, all: all}
		case len(any) > 0:
			return plan{proto: proto, any: any, listens: !named && !onHost}
		}
	}
	return plan{listens: !named && !onHost}
}

// targets are the task's ports that its labels name: those that stand alone, and
// those in ranges.
func (s *serviceLabels) targets(proto model.Protocol) (alone, ranges []uint16) {
	alone = targetsOf(s.spec.Ports, proto)
	for _, p := range s.spec.Publish {
		switch {
		case p.Protocol != proto:
		case s.alone[model.Port{Port: p.Published, Target: p.Target, Protocol: proto}]:
			alone = append(alone, p.Target)
		default:
			ranges = append(ranges, p.Target)
		}
	}
	return unique(alone), unique(ranges)
}

func targetsOf(ports []model.Port, proto model.Protocol) (targets []uint16) {
	for _, p := range ports {
		if p.Protocol == proto {
			targets = append(targets, p.Target)
		}
	}
	return unique(targets)
}

func unique(ports []uint16) []uint16 { return slices.Compact(slices.Sorted(slices.Values(ports))) }

// portsAlone are the published ports of a list that are in no range.
func portsAlone(list string) map[model.Port]bool {
	alone := map[model.Port]bool{}
	for item := range strings.SplitSeq(list, ",") {
		_, published, target, proto, err := parsePublished(strings.TrimSpace(item))
		if err == nil && published.len() == 1 {
			alone[model.Port{Port: published.first, Target: target.first, Protocol: proto}] = true
		}
	}
	return alone
}

// exposedBy are the ports that a container's image, or who started it, exposes.
func exposedBy(c *container.Config) (ports []model.Port) {
	for p := range c.ExposedPorts {
		n, err := parseNumber(p.Port())
		proto, protoErr := model.ParseProtocol(p.Proto())
		if err == nil && protoErr == nil {
			ports = append(ports, model.Port{Port: n, Target: n, Protocol: proto})
		}
	}
	slices.SortFunc(ports, func(a, b model.Port) int { return int(a.Port) - int(b.Port) })
	return ports[:min(len(ports), maxExposed)]
}

// reason says what a task waits for.
func (p *plan) reason() string {
	does := "accepts connections"
	if p.proto == model.UDP {
		does = "is bound"
	}
	switch {
	case len(p.all) > 0:
		return fmt.Sprintf("waits until each of its ports %s: %s", does, portList(p.all, p.proto))
	case len(p.any) > 0:
		return fmt.Sprintf("waits until one of its ports %s: %s", does, portList(p.any, p.proto))
	}
	return "waits until it listens on a port"
}

// portList writes the first few ports.
func portList(ports []uint16, proto model.Protocol) string {
	const most = 8
	var all []string
	for _, p := range ports[:min(len(ports), most)] {
		all = append(all, fmt.Sprintf("%d/%s", p, proto))
	}
	if len(ports) > most {
		all = append(all, fmt.Sprintf("and %d more", len(ports)-most))
	}
	return strings.Join(all, ", ")
}

// finding says what keeps a task from being ready, and what to do about it. The ports
// left have not accepted; none: no port is known. Where listens is nil, it is not
// known what listens.
func finding(left []uint16, proto model.Protocol, listens []sockets.Listener) string {
	const advice = "; shoal.ready=none does not wait"
	if len(left) == 0 {
		return "it listens on no port that others reach" + loopbackOnly(listens, nil) + ": see its log" + advice
	}
	what := fmt.Sprintf("its port %s accepts no connections", portList(left, proto))
	if proto == model.UDP {
		what = fmt.Sprintf("no socket is bound to its port %s", portList(left, proto))
	}
	if listens == nil {
		return what + ": see its log" + advice
	}
	var others []uint16
	there := false
	for _, l := range listens {
		switch {
		case l.Protocol != proto || l.Addr.Addr().IsLoopback():
		case slices.Contains(left, l.Addr.Port()):
			there = true
		case proto != model.UDP || l.Addr.Port() < ephemeral:
			others = append(others, l.Addr.Port())
		}
	}
	switch inside := loopbackOnly(listens, left); {
	case inside != "":
		return what + inside + advice
	case there:
		return what + " from its host, though it is listened on there: see the container's own firewall, and its log" + advice
	case len(others) > 0:
		return fmt.Sprintf("%s; it listens on %s: name that in shoal.ports or shoal.publish, or have it listen on the other%s", what, portList(unique(others), proto), advice)
	}
	return what + ": nothing listens; see its log" + advice
}

// loopbackOnly says that one of the ports, or any, is listened on inside of the
// container alone.
func loopbackOnly(listens []sockets.Listener, ports []uint16) string {
	for _, l := range listens {
		a := l.Addr
		// The engine's own DNS server is at 127.0.0.11 of containers.
		if a.Addr().IsLoopback() && a.Addr() != netip.AddrFrom4([4]byte{127, 0, 0, 11}) && (ports == nil || slices.Contains(ports, a.Port())) {
			return fmt.Sprintf("; it listens on %s alone, which is inside of the container: have it listen on 0.0.0.0", a)
		}
	}
	return ""
}

// readiness is which tasks are ready. It does no I/O.
type readiness struct {
	limit    time.Duration
	recorded func(id string) (model.Container, bool) // a container, as it was when the agent last ran
	waits    map[string]map[model.ServiceID]*waiting
}

// newReadiness makes an empty record; nil, for which every task is ready at once, if
// there is no limit.
func newReadiness(limit time.Duration, recorded func(id string) (model.Container, bool)) *readiness {
	if limit == 0 {
		return nil
	}
	return &readiness{limit: limit, recorded: recorded, waits: map[string]map[model.ServiceID]*waiting{}}
}

// waiting is a task that has to become ready in this life of its container, or has.
type waiting struct {
	life    time.Time // when the container was started
	entered time.Time // when the task came into rotation; zero: it waits
	ready   bool      // it has become ready: there is nothing to try any more
	fault   string    // it was not at the limit, and why; "": it was, or the limit is not over
}

// awaits tells whether a task's ports decide when it enters rotation.
func (f *facts) awaits(s *serviceLabels) bool { return s.ready && !(s.health && f.health != "") }

// observe takes in a container that runs. A task that was in rotation when the agent
// last ran stays there, and one whose limit is over before it is first seen, as when
// shoal is new on a host, enters at once.
func (r *readiness) observe(f *facts, now time.Time) {
	if r == nil {
		return
	}
	for i := range f.services {
		s := &f.services[i]
		old := r.waits[f.id][s.id]
		if !f.awaits(s) || old != nil && old.life.Equal(f.started) {
			continue
		}
		w := &waiting{life: f.started}
		if !now.Before(f.pausedAt.Add(r.limit)) {
			w.entered = f.started
		}
		last, _ := r.recorded(f.id)
		for _, t := range last.Tasks {
			if t.Service == s.id && t.Started.Equal(f.started) && t.State == model.Running {
				w.entered = t.Since
			}
		}
		if r.waits[f.id] == nil {
			r.waits[f.id] = map[model.ServiceID]*waiting{}
		}
		r.waits[f.id][s.id] = w
	}
}

func (r *readiness) remove(id string) {
	if r != nil {
		delete(r.waits, id)
	}
}

func (r *readiness) keep(other func(id string) bool) {
	if r != nil {
		maps.DeleteFunc(r.waits, func(id string, _ map[model.ServiceID]*waiting) bool { return other(id) })
	}
}

// of is the record of a task that has, or had, to become ready in this life; nil: it
// has not to.
func (r *readiness) of(f *facts, s *serviceLabels) *waiting {
	if r == nil {
		return nil
	}
	if w := r.waits[f.id][s.id]; w != nil && w.life.Equal(f.started) {
		return w
	}
	return nil
}

// joined tells whether any task of the container may be in rotation.
func (r *readiness) joined(f *facts) bool {
	return slices.ContainsFunc(f.services, func(s serviceLabels) bool {
		w := r.of(f, &s)
		return w == nil || !w.entered.IsZero()
	})
}

// take takes in what came of a probe, and tells whether anything differs.
func (r *readiness) take(p *probed, now time.Time) bool {
	w := r.waits[p.container][p.service]
	if w == nil || !w.life.Equal(p.life) || p.outcome == refused {
		return false
	}
	if w.entered.IsZero() {
		w.entered = now
		if p.first { // it never waited
			w.entered = w.life
		}
	}
	w.ready, w.fault = p.outcome == accepted, p.fault
	return true
}

// notices are what is wrong with the container's tasks that entered unready.
func (r *readiness) notices(f *facts) (all []model.Notice) {
	for i := range f.services {
		s := &f.services[i]
		if w := r.of(f, s); w != nil && w.fault != "" {
			all = append(all, model.Notice{Code: model.NotReady, Problem: true, Text: fmt.Sprintf("task of %s: %s. It is in rotation all the same, as %s are over", s.id, w.fault, r.limit)})
		}
	}
	return all
}

// probes are those of all containers.
func (v *inventory) probes() (all []probe) {
	if v.readiness == nil {
		return nil
	}
	for _, f := range v.containers {
		all = append(all, v.probesOf(f)...)
	}
	return all
}

// probesOf are what is to be tried of a container: of the tasks that are not known to
// be ready, while the container is neither paused nor leaves.
func (v *inventory) probesOf(f *facts) (all []probe) {
	if _, leaves := v.leaving[f.id]; leaves || f.paused || v.readiness == nil {
		return nil
	}
	for i := range f.services {
		s := &f.services[i]
		w := v.readiness.of(f, s)
		if w == nil || w.ready {
			continue
		}
		addr, err := v.address(f, s)
		if err != nil {
			continue
		}
		owner, err := v.networkOwner(f)
		p := probe{taskKey: taskKey{f.id, s.id}, life: f.started, since: f.pausedAt, limit: v.readiness.limit, addr: addr, pid: f.pid}
		p.onHost = err == nil && owner.hostNetwork
		p.plan = planOf(s, f.exposed, p.onHost)
		all = append(all, p)
	}
	return all
}
