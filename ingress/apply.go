package ingress

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/kernel/ipset"
	"shoal/model"
	"shoal/virtual"
)

// portError is why a port is not served as it should be.
type portError struct {
	port port
	err  error
}

// apply compares what is wanted with what the kernel has, and writes the
// difference. A port has its destinations before the host redirects it, and is
// not redirected any more before it loses them. What is known of the kernel
// follows each write that succeeded.
func (g *Ingress) apply(sets map[string]entries, before map[port]bool, now time.Time) (errs []portError) {
	plans := map[uint32]virtual.Plan{}
	g.draining = false
	for mark := range g.table.Known {
		plans[mark] = virtual.Plan{}
	}
	for p := range g.mappings {
		plans[p.mark()] = virtual.Plan{}
	}
	failed := func(p port, err error) {
		if err != nil {
			errs = append(errs, portError{p, err})
		}
	}
	for mark := range plans {
		var want *virtual.Service
		if m, ok := g.mappings[portOf(mark)]; ok {
			want = &m.virtual
		}
		p := virtual.Diff(want, g.table.Known[mark], now)
		plans[mark] = p
		g.draining = g.draining || p.Draining
		if want != nil {
			failed(portOf(mark), g.table.Raise(want.Service, p))
		}
	}
	for mark, v := range g.table.Known {
		if m, ok := g.mappings[portOf(mark)]; ok && m.virtual.Live() && virtual.Serves(v) {
			p := portOf(mark)
			sets[setPorts.Name][ipset.AddrPort(sandboxAddr, uint8(p.proto), p.number)] = mark
		}
	}
	g.write(sets, failed)
	g.forgetFlows(before, redirected(g.sets))
	for mark, p := range plans {
		failed(portOf(mark), g.table.Lower(mark, p))
	}
	slices.SortFunc(errs, func(a, b portError) int { return a.port.compare(b.port) })
	return errs
}

// write brings the sets in line: the sandbox's first where entries come, last
// where they go.
func (g *Ingress) write(want map[string]entries, failed func(port, error)) {
	put, remove := map[string]entries{}, map[string]entries{}
	for name, w := range want {
		put[name], remove[name] = change(w, g.sets[name])
	}
	inSandbox := func(changes map[string]entries, do func([]ipset.Set, map[string]entries, func(port, error))) {
		if slices.ContainsFunc(sandboxSets, func(s ipset.Set) bool { return len(changes[s.Name]) > 0 }) {
			failed(port{}, g.sandbox.do(func() error { do(sandboxSets, changes, failed); return nil }))
		}
	}
	inSandbox(put, g.put)
	g.put(hostSets, put, failed)
	g.remove(hostSets, remove, failed)
	inSandbox(remove, g.remove)
}

func (g *Ingress) put(sets []ipset.Set, changes map[string]entries, failed func(port, error)) {
	for _, s := range sets {
		refused := ipset.Put(s, changes[s.Name])
		for e, mark := range changes[s.Name] {
			if err := refused[e]; err != nil {
				failed(g.portOf(s, e), err)
			} else {
				g.sets[s.Name][e] = mark
			}
		}
	}
}

func (g *Ingress) remove(sets []ipset.Set, changes map[string]entries, failed func(port, error)) {
	for _, s := range slices.Backward(sets) {
		refused := ipset.Remove(s, changes[s.Name])
		for e := range changes[s.Name] {
			if err := refused[e]; err != nil {
				failed(g.portOf(s, e), err)
			} else {
				delete(g.sets[s.Name], e)
			}
		}
	}
}

// portOf is the published port that an entry of a set belongs to; the zero
// port for one that belongs to all.
func (g *Ingress) portOf(s ipset.Set, e ipset.Entry) port {
	switch s.Name {
	case setPublished.Name, setPorts.Name:
		return port{model.Protocol(e.Proto), e.Port}
	case setTargets.Name:
		for p, m := range g.mappings {
			if slices.Contains(m.targets, e) {
				return p
			}
		}
	}
	return port{}
}

// forgetFlows drops what the host remembers of UDP flows to ports that it has
// begun to redirect, or has ceased to. A sender that never pauses would
// otherwise go on as before for ever.
func (g *Ingress) forgetFlows(before, after map[port]bool) {
	changed := map[uint16]bool{}
	for p := range after {
		if p.proto == model.UDP && !before[p] {
			changed[p.number] = true
		}
	}
	for p := range before {
		if p.proto == model.UDP && !after[p] {
			changed[p.number] = true
		}
	}
	if len(changed) == 0 {
		return
	}
	// An entry that is missed runs out by itself.
	_ = forget(func(f *netlink.ConntrackFlow) bool {
		return f.Forward.Protocol == unix.IPPROTO_UDP && changed[f.Forward.DstPort]
	})
}

// flows picks connections that the kernel remembers.
type flows func(*netlink.ConntrackFlow) bool

func (f flows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool { return f(flow) }

func forget(f flows) error {
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f)
	kernel.Wrote("conntrack", int(n))
	if err != nil {
		return fmt.Errorf("forget connections: %w", err)
	}
	return nil
}

// count looks at the connections of draining destinations.
func (g *Ingress) count(errs map[object]error) {
	for _, p := range slices.SortedFunc(maps.Keys(g.mappings), port.compare) {
		m := g.mappings[p]
		if g.table.Known[p.mark()] == nil || !slices.ContainsFunc(m.virtual.Dests, func(d virtual.Dest) bool { return !d.Until.IsZero() }) {
			continue
		}
		if err := g.table.Count(p.mark()); err != nil {
			errs[g.objectOf(p)] = err
		}
	}
}
