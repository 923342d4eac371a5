package ipvs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
	"shoal/kernel/rules"
	"shoal/lb"
	"shoal/lb/host"
	"shoal/model"
)

// Inspect reads what the kernel has of a VIP or of a published port.
func (p *Plane) Inspect(ctx context.Context, k lb.Key) (*lb.View, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	want := p.chains()
	have, err := rules.Read(ctx, rules.Tables(want)...)
	if err != nil {
		return nil, err
	}
	_, broken := rules.Diff(want, have)
	if k.Published() {
		return p.inspectPublished(ctx, k, have, broken)
	}
	return p.inspectVIP(k.VIP, have, broken)
}

// rulesStep shows rules of a chain, or what is broken.
func rulesStep(chain string, rules, broken []string) lb.Step {
	if len(broken) > 0 {
		return lb.Step{What: "rules", Evidence: strings.Join(broken, "\n")}
	}
	var lines []string
	for _, r := range rules {
		lines = append(lines, "-A "+chain+" "+r)
	}
	return lb.Step{What: "rules", OK: true, Evidence: strings.Join(lines, "\n")}
}

func (p *Plane) inspectVIP(vip netip.Addr, have rules.State, broken []string) (*lb.View, error) {
	route, err := host.RouteStep(p.opts.Pool, vip)
	if err != nil {
		return nil, err
	}
	v := &lb.View{Steps: []lb.Step{route, rulesStep("SHOAL-MARK", have["mangle"]["SHOAL-MARK"], broken)}}
	table, err := p.host.table.ipvs.Table()
	if err != nil {
		return nil, err
	}
	for _, set := range hostSets {
		if _, has := keyOf(set.Name, ipset.Entry{}); !has {
			continue
		}
		held, err := listed(set)
		if err != nil {
			return nil, err
		}
		for e, mark := range held {
			if k, _ := keyOf(set.Name, e); k.VIP == vip {
				v.Fronts = append(v.Fronts, vipView(k, set.Name, mark, table[mark&^noNewConns]))
			}
		}
	}
	slices.SortFunc(v.Fronts, func(x, y lb.FrontView) int {
		named := func(f lb.FrontView) int { return min(int(f.Key.Port), 1) }
		return cmp.Or(cmp.Compare(named(x), named(y)), x.Key.Compare(y.Key))
	})
	return v, nil
}

// vipView is a frontend of a VIP, by the entry of its set and the service of
// that mark; nil: there is none.
func vipView(k lb.Key, set string, mark uint32, s *ipvs.Virtual) lb.FrontView {
	f := lb.FrontView{Key: k, Open: mark&noNewConns == 0}
	mark &^= noNewConns
	what := "every other port"
	if k.Port != 0 {
		what = fmt.Sprintf("port %d/%s", k.Port, k.Protocol)
	} else if k.Protocol == model.UDP {
		what += "/udp"
	}
	entry := fmt.Sprintf("%s: set %s gives mark %#x", what, set, mark)
	if !f.Open {
		entry += ", which lets no new connection in: no task is in rotation for it"
	}
	addService(&f, s)
	f.Steps = []lb.Step{
		{What: "mark", OK: f.Open, Evidence: entry},
		{What: "virtual", OK: s != nil, Evidence: fmt.Sprintf("%s: IPVS service %#x, scheduler %s", what, mark,
			cmp.Or(f.Scheduler, "none: the kernel has no such service"))},
	}
	return f
}

// addService adds what a virtual service says to a view; nil: there is none.
func addService(f *lb.FrontView, s *ipvs.Virtual) {
	if s == nil {
		return
	}
	f.Scheduler, f.Affinity = s.Scheduler, time.Duration(s.Affinity)*time.Second
	for _, a := range slices.SortedFunc(maps.Keys(s.Dests), netip.AddrPort.Compare) {
		d := s.Dests[a]
		f.Backends = append(f.Backends, lb.BackendView{Addr: a, Weight: d.Weight, Active: d.Active, Inactive: d.Inactive})
	}
}

func (p *Plane) inspectPublished(ctx context.Context, k lb.Key, have rules.State, broken []string) (*lb.View, error) {
	v := new(lb.View)
	held, err := listed(setPublished)
	if err != nil {
		return nil, err
	}
	var sets []string
	for e := range held {
		if publishedKey(e) == k {
			sets = append(sets, fmt.Sprintf("%s %s,%s:%d", setPublished.Name, e.Net, k.Protocol, k.Port))
			v.On = append(v.On, e.Net)
		}
	}
	slices.Sort(sets)
	slices.SortFunc(v.On, netip.Prefix.Compare)
	step := lb.Step{What: "host", OK: len(sets) > 0, Evidence: strings.Join(sets, "\n")}
	if !step.OK {
		step.Evidence = "no set of this host redirects the port"
	}
	redirect := slices.DeleteFunc(slices.Clone(have["nat"]["SHOAL-IN"]), func(r string) bool { return !strings.Contains(r, setPublished.Name) })
	if p.sandbox.ns.IsOpen() {
		if err := p.sandbox.do(func() error {
			more, err := p.inspectSandbox(ctx, k, v)
			broken = append(broken, more...)
			return err
		}); err != nil {
			return nil, err
		}
	}
	v.Steps = []lb.Step{step, rulesStep("SHOAL-IN", redirect, broken)}
	for i := range v.Fronts {
		back, err := returnStep()
		if err != nil {
			return nil, err
		}
		v.Fronts[i].Steps = append(v.Fronts[i].Steps, back)
	}
	return v, nil
}

// inspectSandbox adds to a view what the sandbox has of a port. It returns what
// is broken there.
func (p *Plane) inspectSandbox(ctx context.Context, k lb.Key, v *lb.View) (broken []string, err error) {
	want := sandboxChains()
	have, err := rules.Read(ctx, rules.Tables(want)...)
	if err != nil {
		return nil, err
	}
	_, wrong := rules.Diff(want, have)
	for _, w := range wrong {
		broken = append(broken, "in the sandbox: "+w)
	}
	held, err := listed(setPorts)
	if err != nil || p.box.table.ipvs == nil {
		return broken, err
	}
	table, err := p.box.table.ipvs.Table()
	if err != nil {
		return broken, err
	}
	_, e := where(k)
	given := held[e]
	mark, _ := p.box.marks.of(k)
	if given == 0 && table[mark] == nil && len(v.On) == 0 {
		return broken, nil // nobody publishes it
	}
	f := lb.FrontView{Key: k, Open: given != 0}
	addService(&f, table[mark])
	f.Steps = []lb.Step{
		{What: "sandbox", OK: f.Open, Evidence: fmt.Sprintf("%s in %s gives mark %#x", sandboxAddr, p.opts.Netns, given)},
		{What: "virtual", OK: f.Scheduler != "", Evidence: fmt.Sprintf("IPVS service %#x, scheduler %s", given, cmp.Or(f.Scheduler, "none"))},
	}
	v.Fronts = append(v.Fronts, f)
	return broken, nil
}

// Client reads as whom a client that sends to this host, from that address,
// comes through the sandbox.
func (p *Plane) Client(addr netip.Addr) (lb.ClientView, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := lb.ClientView{Kept: true, Addr: addr, Evidence: "no entry of " + setClients.Name + " in the sandbox has it"}
	if r, err := kernel.RouteTo(addr, 0); err != nil {
		return v, err
	} else if r != nil && r.Type == unix.RTN_LOCAL {
		v.Addr = hostAddr
	}
	if !p.sandbox.ns.IsOpen() {
		return v, nil
	}
	return v, p.sandbox.do(func() error {
		held, err := listed(setClients)
		if e, has := narrowest(held, v.Addr); has {
			v.Kept, v.Evidence = false, fmt.Sprintf("%s %s in the sandbox", setClients.Name, e)
		}
		return err
	})
}

// narrowest is the longest prefix of a set that has the address: the one by
// which the kernel finds it.
func narrowest(held map[ipset.Entry]uint32, addr netip.Addr) (found netip.Prefix, has bool) {
	for e := range held {
		if e.Net.Contains(addr) && (!has || e.Net.Bits() > found.Bits()) {
			found, has = e.Net, true
		}
	}
	return found, has
}

// listed reads a set; one that is not there is empty.
func listed(set ipset.Set) (map[ipset.Entry]uint32, error) {
	held, err := ipset.List(set.Name)
	if errors.Is(err, ipset.ErrNotExist) {
		return nil, nil
	}
	return held, err
}
