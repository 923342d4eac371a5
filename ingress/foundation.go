package ingress

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
	"shoal/kernel/rules"
	"shoal/kernel/sysctl"
	"shoal/model"
)

// sandboxParams are the kernel parameters of the sandbox.
var sandboxParams = []struct{ name, value string }{
	{"net.ipv4.ip_forward", "1"},
	{sysctl.IPv4("all", "rp_filter"), "0"},
	{sysctl.IPv4(sandboxDev, "rp_filter"), "0"},
	{sysctl.IPv4("all", "send_redirects"), "0"}, // everything leaves by the device it came in by
	{sysctl.IPv4(sandboxDev, "send_redirects"), "0"},
	{"net.ipv4.vs.conntrack", "1"},                 // clients inside the cluster are given another address
	{"net.ipv4.vs.expire_nodest_conn", "1"},        // connections of a deleted destination end at once
	{"net.ipv4.vs.expire_quiescent_template", "1"}, // affinity lets go of a destination of weight 0
}

// read finds the sandbox or makes it, and takes stock of the kernel, making
// the sets that are missing.
func (g *Ingress) read(ctx context.Context) error {
	made, err := g.sandbox.open()
	if err != nil {
		return err
	}
	if err := g.sandbox.connect(); err != nil {
		return err
	}
	sets := map[string]entries{}
	if err := g.stock(hostSets, sets); err != nil {
		return err
	}
	return g.sandbox.do(func() (err error) {
		if made && g.table.IPVS != nil {
			g.table.IPVS.Close()
			g.table.IPVS = nil
		}
		if g.table.IPVS == nil {
			if g.table.IPVS, err = ipvs.New(ctx); err != nil {
				return err
			}
		}
		params := sysctl.New(g.opts.sandboxParams())
		for _, p := range sandboxParams {
			if err := params.Set(p.name, p.value); err != nil {
				return fmt.Errorf("in the sandbox: %w", err)
			}
		}
		if err := g.timeouts(); err != nil {
			return err
		}
		if err := g.stock(sandboxSets, sets); err != nil {
			return fmt.Errorf("in the sandbox: %w", err)
		}
		table, err := g.table.IPVS.Table()
		if err != nil {
			return err
		}
		g.table.Known, g.sets = table, sets
		return nil
	})
}

func (g *Ingress) stock(which []ipset.Set, held map[string]entries) error {
	for _, s := range which {
		found, err := ipset.List(s.Name)
		if errors.Is(err, ipset.ErrNotExist) {
			found = entries{}
			err = ipset.Create(s)
		}
		if err != nil {
			return err
		}
		held[s.Name] = found
	}
	return nil
}

func (g *Ingress) timeouts() error {
	if g.opts.Timeouts == (ipvs.Timeouts{}) {
		return nil
	}
	have, err := g.table.IPVS.Timeouts()
	if err != nil || have == g.opts.Timeouts {
		return err
	}
	return g.table.IPVS.SetTimeouts(g.opts.Timeouts)
}

// foundation keeps what all ports stand on: rules, parameters and routes. A
// part that fails is a problem by itself.
func (g *Ingress) foundation(ctx context.Context) (errs map[object]error) {
	errs = map[object]error{}
	part := func(name string, err error) {
		if err != nil {
			errs[object{kind: "kernel", name: name}] = err
		}
	}
	part("sandbox's iptables", g.sandbox.do(func() error { return g.rules(ctx, sandboxChains()) }))
	part("iptables", g.rules(ctx, hostChains(g.opts.Pool, &g.base)))

	part("sysctl ip_forward", g.params.Set("net.ipv4.ip_forward", "1"))
	part("sysctl route_localnet", g.params.Set(sysctl.IPv4(hostDev, "route_localnet"), "1"))
	ws, devs, lost, err := ways(g.base.peers)
	if err != nil {
		part("routes", err)
		return errs
	}
	maps.Copy(errs, lost)
	for _, dev := range devs {
		part("sysctl rp_filter of "+dev, loosen(g.params, dev))
	}
	part("routes", errors.Join(backRoute(g.base.self), route(ws)))
	return errs
}

func (g *Ingress) rules(ctx context.Context, want []rules.Chain) error {
	wrong, err := rules.Keep(ctx, want)
	if len(wrong) > 0 {
		g.log.Info("iptables rules written", "why", rules.Brief(wrong))
	}
	return err
}

// occupied finds the ports that are somebody else's on this host, and so not
// to be redirected. A port that is redirected already, wherever it is to be,
// stays so. It looks at those that are new, and at all in a full pass; where it
// cannot be told who has a port, it is not redirected.
func (g *Ingress) occupied(ctx context.Context, ms []mapping, full bool) {
	before := g.blocked
	g.blocked = map[port]error{}
	var ask []*mapping
	protos := map[model.Protocol]bool{}
	for i := range ms {
		m := &ms[i]
		_, known := g.mappings[m.port]
		switch {
		case g.redirects(m):
		case full || !known:
			ask = append(ask, m)
			protos[m.port.proto] = true
		case before[m.port] != nil:
			g.blocked[m.port] = before[m.port]
		}
	}
	if len(ask) == 0 {
		return
	}
	ls, err := listeners(protos)
	var have rules.State
	if err == nil {
		have, err = rules.Read(ctx, "nat")
	}
	if err != nil {
		for _, m := range ask {
			g.blocked[m.port] = fmt.Errorf("publish %s for %s: find out who has it on this host: %w", m.port, m.service, err)
		}
		return
	}
	maps.Copy(g.blocked, occupied(ask, g.opts.Pool, ls, redirects(have), processes))
}

// redirects tells whether the host redirects a port on all addresses where it
// is to.
func (g *Ingress) redirects(m *mapping) bool {
	for _, e := range m.entries() {
		if _, has := g.sets[setPublished.Name][e]; !has {
			return false
		}
	}
	return true
}
