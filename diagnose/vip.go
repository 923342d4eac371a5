package diagnose

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"shoal/lb"
	"shoal/model"
)

// explainVIP tells what the kernel has of a service's VIP, and returns the tasks
// that it gives new connections.
func (in *Inspector) explainVIP(ctx context.Context, e *walk, svc *model.Service) (chosen []netip.Addr) {
	view, err := in.Plane.Inspect(ctx, lb.Key{VIP: svc.VIP})
	if err != nil {
		e.step("kernel", false, "it cannot be read: %v", err)
		return nil
	}
	e.steps(view.Steps)
	e.step("balancer", len(view.Fronts) > 0 || len(svc.InRotation()) == 0, "%s carries it, by %d frontends", in.Plane.Name(), len(view.Fronts))
	for _, f := range view.Fronts {
		explainFront(e, svc, f)
		for _, b := range f.Backends {
			if f.Open && b.Weight > 0 {
				chosen = append(chosen, b.Addr.Addr())
			}
		}
	}
	return chosen
}

func explainFront(e *walk, svc *model.Service, f lb.FrontView) {
	e.steps(f.Steps)
	for _, d := range f.Backends {
		port := "the same port"
		if p := d.Addr.Port(); p != 0 {
			port = fmt.Sprintf("port %d", p)
		}
		evidence := fmt.Sprintf("%s, %s, weight %d, %d active and %d other connections (%s)", d.Addr.Addr(), port, d.Weight, d.Active, d.Inactive, taskAt(svc, d.Addr.Addr()))
		ok := true
		if p := d.Addr.Port(); p != 0 && d.Weight > 0 && f.Key.Protocol == model.TCP && !e.reads {
			if err := tryConnect(d.Addr); err != nil {
				ok, evidence = false, evidence+"\nit does not take connections there: "+err.Error()
			}
		}
		e.step("task", ok, "%s", evidence)
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
