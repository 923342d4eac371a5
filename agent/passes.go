package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"golang.org/x/sync/errgroup"

	"shoal/model"
	"shoal/reconcile"
)

// follow runs the passes of a part in a loop of its own, repairing after each
// period (0: never), at once when changed tells that the kernel is not as it was
// made, and when the engine has come back or its networks
// changed: when it starts, and with a network, an engine puts rules of its own in
// front of ours.
func (a *Agent) follow(ctx context.Context, g *errgroup.Group, part string, repair time.Duration, changed <-chan struct{}, pass reconcile.Pass) {
	var engineCame int64
	heart := a.health.Watch(part, passLimit)
	l := reconcile.Loop{
		Heart: heart, Pass: pass, Repair: repair, Changed: changed,
		Full: func(old, new *model.Snapshot) bool {
			came := a.engineCame.Load()
			full := old == nil || came != engineCame || !reflect.DeepEqual(old.Networks, new.Networks)
			engineCame = came
			return full
		},
		Report: func(ps []model.Problem) { a.problems.Set(part, ps) },
		Done: func(full bool, took time.Duration, problems int) {
			a.metrics.reconciled(part, full, took, problems)
			a.health.Met(part)
		},
	}
	g.Go(func() error {
		defer heart.Stop()
		l.Run(ctx, a.catalog.Watch(ctx))
		return nil
	})
}

// balance has the data plane carry what a Snapshot says, and removes what another
// one left behind once it does.
func (a *Agent) balance(ctx context.Context, s *model.Snapshot, full bool) reconcile.Result {
	a.answerPeers(ctx, s.Self) // its port is to be known; that it fails is told by answer
	r := a.balancer.Reconcile(ctx, s, full)
	if !r.More && !a.balanced {
		a.balanced = true
		a.plane.retire(ctx, a.config.planeOptions(a.log), a.log)
	}
	if a.balanced {
		a.catalog.Applied(s.Revision)
	}
	return r
}

func (a *Agent) answer(ctx context.Context, s *model.Snapshot, _ bool) reconcile.Result {
	a.dns.Update(s)
	again, ps := a.answerPeers(ctx, s.Self)
	ps = append(ps, a.dns.Problems(s)...)
	look, taken := a.dnsPortProblems()
	again, ps = reconcile.Sooner(again, look), append(ps, taken...)
	for _, n := range s.Nodes {
		if n.Problem != "" {
			ps = append(ps, model.Problem{Node: s.Self.Name, Code: n.ProblemCode, Kind: "node", Object: n.Name, Reason: n.Problem})
		}
	}
	for _, c := range s.Notable {
		if code, why := problemOf(c, s, a.config.Network); why != "" {
			ps = append(ps, model.Problem{Node: c.Node, Code: code, Kind: "container", Object: c.Name, Reason: why, Since: c.Since})
		}
		for _, n := range c.Notices {
			ps = append(ps, model.Problem{Node: c.Node, Code: n.Code, Kind: "container", Object: c.Name, Reason: n.Text, Notice: !n.Problem, Since: c.Since})
		}
	}
	return reconcile.Result{Again: again, Problems: ps}
}

// problemOf is what keeps a container's tasks from serving the whole cluster:
// that of its labels, or that it is on none of the networks that other hosts
// reach, as the one called network is.
func problemOf(c *model.Container, s *model.Snapshot, network string) (code model.Code, why string) {
	if c.Problem != "" || c.Node != s.Self.Name || len(s.Nodes) < 2 || !s.Self.Subnet.IsValid() {
		return c.ProblemCode, c.Problem
	}
	for i := range c.Tasks {
		if t := &c.Tasks[i]; !s.Self.Reached(t.Addr) {
			return model.TaskUnreached, fmt.Sprintf("only this host reaches its address %s, so it serves %s here and on no other host; "+
				"start it anew with --network %[3]s, and if it has to be on others too, with the label shoal.network=%[3]s", t.Addr, t.Service, network)
		}
	}
	return "", ""
}

// publishAgain is how often the store is asked again for ports when it was
// away: no Snapshot may tell that it is back.
const publishAgain = 5 * time.Second

// publish claims the ports that this host's tasks publish, and releases those
// nobody publishes any more. Where the store does not answer for one port, the
// others are left for the next time: each would wait as long to learn the same.
func (a *Agent) publish(ctx context.Context, s *model.Snapshot, _ bool) reconcile.Result {
	var again time.Duration
	claim, release, ps := a.claimer.Claims(s, a.policy)
	left := len(claim) + len(release)
	if left > 0 {
		// The next Snapshot shows it, as a rule. But a host that does not know of the task
		// yet may release a port just when it is claimed, before any Snapshot was made of
		// that: then none differs from this one, and nothing would say to claim it again.
		again = time.Second
	}
	carryOut := func(cs []model.PortClaim, do func(context.Context, model.PortClaim) error) (answered bool) {
		for _, c := range cs {
			err := do(ctx, c)
			if errors.Is(err, model.ErrAway) {
				return false
			}
			left--
			if err == nil {
				continue
			}
			if taken := new(model.PortTakenError); !errors.As(err, &taken) { // that one is in the next Snapshot
				ps = append(ps, model.Problem{Code: model.CodeOf(err, model.Unclassified), Kind: "service", Object: c.Service.String(), Reason: err.Error()})
			}
		}
		return true
	}
	if !carryOut(claim, a.catalog.ClaimPort) || !carryOut(release, a.catalog.ReleasePort) {
		again = publishAgain
		ps = append(ps, model.Problem{Code: model.StoreUnreachable, Kind: "store", Object: "published ports",
			Reason: fmt.Sprintf("%d wait to be claimed or released: the store does not answer, and it is tried again; see: shoal status", left)})
	}
	return reconcile.Result{Again: again, Problems: ps}
}
