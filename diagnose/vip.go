package diagnose

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"shoal/api"
	"shoal/lb"
	"shoal/model"
)

// vipView is what the kernel has of a VIP.
type vipView struct {
	chosen []netip.Addr   // tasks that are given new connections
	fronts []lb.FrontView // all ports first
}

// explainVIP tells what the kernel has of a service's VIP.
func (in *Inspector) explainVIP(ctx context.Context, e *walk, svc *model.Service) (v vipView) {
	view, err := in.Plane.Inspect(ctx, lb.Key{VIP: svc.VIP})
	if err != nil {
		e.step("kernel", false, "it cannot be read: %v", err)
		return v
	}
	e.kernelSteps(view.Steps)
	e.step("balancer", len(view.Fronts) > 0 || len(svc.InRotation()) == 0, "%s carries it, by %s", in.Plane.Name(), count(len(view.Fronts), "frontend"))
	for _, f := range view.Fronts {
		explainFront(e, svc, f)
		for _, b := range f.Backends {
			if f.Open && b.Weight > 0 {
				v.chosen = append(v.chosen, b.Addr.Addr())
			}
		}
	}
	v.fronts = view.Fronts
	return v
}

func explainFront(e *walk, svc *model.Service, f lb.FrontView) {
	e.kernelSteps(f.Steps)
	for _, d := range f.Backends {
		port := "the same port"
		if p := d.Addr.Port(); p != 0 {
			port = fmt.Sprintf("port %d", p)
		}
		evidence := fmt.Sprintf("%s, %s, weight %d, %d active and %d other connections (%s)", d.Addr.Addr(), port, d.Weight, d.Active, d.Inactive, taskAt(svc, d.Addr.Addr()))
		step := api.Step{What: "backend", Node: e.node, OK: true, Evidence: evidence, Kernel: true}
		if p := d.Addr.Port(); p != 0 && d.Weight > 0 && f.Key.Protocol == model.TCP && !e.reads {
			if err := tryConnect(d.Addr); err != nil {
				step.OK = false
				step.Evidence = fmt.Sprintf("%s does not take connections: %v (%s)", d.Addr, err, taskAt(svc, d.Addr.Addr()))
				step.Remedy = "see its task above; if that listens, what drops packets on the way: shoal trace, shoal problems"
			}
		}
		e.add(step)
	}
}

// taskAt says which task of a service has an address.
func taskAt(svc *model.Service, addr netip.Addr) string {
	who := "no task of the service"
	for _, t := range svc.Tasks {
		if t.Addr == addr {
			who = fmt.Sprintf("%s on %s, %s", t.Name, t.Node, t.State)
		}
	}
	return who
}

// tryConnect makes a connection to a task, as the balancer would.
func tryConnect(a netip.AddrPort) error {
	c, err := net.DialTimeout("tcp", a.String(), time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}
