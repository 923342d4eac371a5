package nft

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"time"

	"shoal/kernel/rules"
	"shoal/lb"
	"shoal/lb/host"
)

// iptables are the few rules that stand in front of everybody's in the chains of
// iptables, where there is such a program: a drop there is final. What our own
// chains just before them have let pass, passes.
var iptables = []rules.Chain{
	{Table: "raw", Name: "SHOAL-PASS", From: []rules.Jump{{From: "PREROUTING"}}, Rules: []string{passRule}},
	{Table: "filter", Name: "SHOAL-PASS", From: []rules.Jump{{From: "INPUT"}, {From: "FORWARD"}, {From: "OUTPUT"}}, Rules: []string{passRule}},
}

var passRule = fmt.Sprintf("-m mark --mark %#x/%#x -j ACCEPT", passBit, passBit)

func hasIPTables() bool {
	_, err := exec.LookPath("iptables")
	return !errors.Is(err, exec.ErrNotFound)
}

// ensure keeps what all frontends stand on beside the table. A part that fails
// is a failure by itself.
func (p *Plane) ensure(ctx context.Context, now time.Time) {
	dir := p.opts.StateDir
	part := func(name string, err error) { p.failing.Put(lb.Object{Part: name}, err, now) }
	part("br_netfilter", host.Netfilter(ctx))
	part("sysctl net.ipv4.ip_forward", host.Forward(dir))
	if hasIPTables() {
		wrong, err := rules.Keep(ctx, iptables)
		if len(wrong) > 0 {
			p.log.Info("iptables rules written", "why", rules.Brief(wrong))
		}
		part("iptables", err)
	}
	if p.have.known { // without rules, the route would open every listener of the host
		part("route", p.standing.Route(p.opts.Pool, p.around.base.Self.Addr))
	} else {
		p.standing.Forget()
	}
}

// ensureDevices keeps what tasks need of the devices that lead to them.
func (p *Plane) ensureDevices(now time.Time) {
	dir := p.opts.StateDir
	p.failing.Put(lb.Object{Part: "bridges"}, host.Bridges(dir, p.around.base, p.endpoints), now)
	if !p.publishes() || !p.have.known { // without rules, others would reach what listens on 127.0.0.1
		return
	}
	var errs []error
	for _, d := range p.around.devices() {
		if isLink(d) {
			errs = append(errs, host.RouteLocalnet(dir, d))
		}
	}
	p.failing.Put(lb.Object{Part: "sysctl route_localnet"}, errors.Join(errs...), now)
}

// publishes tells whether any port is published.
func (p *Plane) publishes() bool {
	for k := range p.frontends {
		if k.Published() {
			return true
		}
	}
	return false
}

// devices lead to tasks, here or on other hosts. A process of this host that
// connects to 127.0.0.1 and a published port is led out by one.
func (w *surroundings) devices() []string {
	names := map[string]bool{}
	for _, n := range w.base.Networks {
		names[n.Bridge] = true
	}
	for _, l := range w.between.Links {
		names[l.Device] = true
	}
	return slices.Sorted(maps.Keys(names))
}
