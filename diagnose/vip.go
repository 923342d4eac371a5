package diagnose

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	lb "shoal/lb/ipvs"
	"shoal/model"
)

// explainVIP tells what the kernel has of a service's VIP, and returns the tasks
// that it gives new connections.
func (in *Inspector) explainVIP(ctx context.Context, e *walk, svc *model.Service) (chosen []netip.Addr) {
	view, err := in.VIPs.Inspect(ctx, svc.VIP)
	if err != nil {
		e.step("kernel", false, "it cannot be read: %v", err)
		return nil
	}
	e.step("VIP", view.Route != "", "%s", orElse(view.Route, fmt.Sprintf("the kernel does not route %s to this host", svc.VIP)))
	rules := strings.Join(view.Rules, "\n")
	if len(view.Broken) > 0 {
		rules = strings.Join(view.Broken, "\n")
	}
	e.step("rules", len(view.Broken) == 0, "%s", rules)
	e.step("balancer", len(view.Fronts) > 0 || len(svc.InRotation()) == 0, "%d virtual services carry it", len(view.Fronts))
	for _, f := range view.Fronts {
		explainFront(e, svc, f)
		for _, d := range f.Dests {
			if f.Open && d.Weight > 0 {
				chosen = append(chosen, d.Addr.Addr())
			}
		}
	}
	return chosen
}

func explainFront(e *walk, svc *model.Service, f lb.FrontView) {
	what := "every other port"
	if f.Port != 0 {
		what = fmt.Sprintf("port %d/%s", f.Port, f.Protocol)
	} else if f.Protocol == model.UDP {
		what += "/udp"
	}
	entry := fmt.Sprintf("%s: set %s gives mark %#x", what, f.Set, f.Mark)
	e.step("mark", f.Open, "%s", orElse(map[bool]string{true: entry}[f.Open], entry+", which lets no new connection in: no task is in rotation for it"))
	e.step("virtual", f.Service, "%s: IPVS service %#x, scheduler %s", what, f.Mark, orElse(f.Scheduler, "none: the kernel has no such service"))
	for _, d := range f.Dests {
		who := "no task of the service"
		for i := range svc.Tasks {
			if svc.Tasks[i].Addr == d.Addr.Addr() {
				who = fmt.Sprintf("%s on %s, %s", svc.Tasks[i].Name, svc.Tasks[i].Node, svc.Tasks[i].State)
			}
		}
		port := "the same port"
		if p := d.Addr.Port(); p != 0 {
			port = fmt.Sprintf("port %d", p)
		}
		evidence := fmt.Sprintf("%s, %s, weight %d, %d active and %d other connections (%s)", d.Addr.Addr(), port, d.Weight, d.Active, d.Inactive, who)
		ok := true
		if p := d.Addr.Port(); p != 0 && d.Weight > 0 && f.Protocol == model.TCP && !e.reads {
			if err := tryConnect(d.Addr); err != nil {
				ok, evidence = false, evidence+"\nit does not take connections there: "+err.Error()
			}
		}
		e.step("task", ok, "%s", evidence)
	}
}

// tryConnect makes a connection to a task, as the balancer would.
func tryConnect(a netip.AddrPort) error {
	c, err := net.DialTimeout("tcp", a.String(), time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}
