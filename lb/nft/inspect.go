package nft

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/kernel/rules"
	"shoal/lb"
	"shoal/lb/host"
	"shoal/model"
)

// Inspect reads what the kernel has of a VIP or of a published port.
func (p *Plane) Inspect(ctx context.Context, k lb.Key) (*lb.View, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	table, err := p.rulesStep(ctx)
	if err != nil {
		return nil, err
	}
	v := &lb.View{}
	fronts, on, err := p.fronts(k)
	if err != nil {
		return nil, err
	}
	v.Fronts = fronts
	if !k.Published() {
		route, err := host.RouteStep(p.opts.Pool, k.VIP)
		v.Steps = []lb.Step{route, table}
		return v, err
	}
	step := lb.Step{What: "host", OK: len(on) > 0, Evidence: "no entry of the map services takes the port"}
	if step.OK {
		var lines []string
		for _, a := range on {
			lines = append(lines, fmt.Sprintf("services %s . %s . %d", a, k.Protocol, k.Port))
			bits := 32
			if a.IsUnspecified() {
				bits = 0
			}
			v.On = append(v.On, netip.PrefixFrom(a, bits))
		}
		step.Evidence = strings.Join(lines, "\n")
	}
	v.Steps = []lb.Step{step, table}
	return v, nil
}

// rulesStep compares rules with those that should be there: the table's, and
// those of iptables.
func (p *Plane) rulesStep(ctx context.Context) (lb.Step, error) {
	step := lb.Step{What: "rules"}
	l, _, err := library()
	if err != nil {
		return step, err
	}
	defer l.CloseLasting()
	c, err := open()
	if err != nil {
		return step, err
	}
	defer c.Close()
	s, err := readStructure(c, l)
	if err != nil {
		return step, err
	}
	if !s.table {
		step.Evidence = "there is no table ip " + tableName
		return step, nil
	}
	var wrong []string
	n := 0
	for _, c := range p.around.chains() {
		have := s.chains[c.name]
		n += len(c.rules)
		if have == nil {
			wrong = append(wrong, "there is no chain "+c.name)
		} else if !have.is(&c) {
			wrong = append(wrong, fmt.Sprintf("the chain %s differs: %d rules of %d are as they should be", c.name, alike(have.comments, c.comments()), len(c.rules)))
		}
	}
	for name, have := range s.chains {
		if b, ok := parseBalancer(name); ok {
			c := chain{name: name, rules: b.rules()}
			if !have.is(&c) {
				wrong = append(wrong, fmt.Sprintf("the chain %s differs", name))
			}
		}
	}
	slices.Sort(wrong)
	if hasIPTables() {
		have, err := rules.Read(ctx, rules.Tables(iptables)...)
		if err != nil {
			return step, err
		}
		_, broken := rules.Diff(iptables, have)
		wrong = append(wrong, broken...)
	}
	if len(wrong) > 0 {
		step.Evidence = strings.Join(wrong, "\n")
		return step, nil
	}
	step.OK = true
	step.Evidence = fmt.Sprintf("table ip %s: %d rules, as they should be", tableName, n)
	return step, nil
}

func alike(have, want []string) (n int) {
	for _, w := range want {
		if slices.Contains(have, w) {
			n++
		}
	}
	return n
}

// fronts reads the frontends of a VIP, or of a published port and where it is
// taken.
func (p *Plane) fronts(of lb.Key) (all []lb.FrontView, on []netip.Addr, err error) {
	c, err := open()
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	chains := map[string]string{}
	if err := listed(c, balancers, func(e entry) { chains[e.key] = e.value }); err != nil {
		return nil, nil, err
	}
	found := map[lb.Key]*lb.FrontView{}
	slotsSeen := map[lb.Key]int{}
	counts := map[bool]map[lb.Key]bool{false: {}, true: {}} // with affinity, slots are in ids
	err = listed(c, services, func(e entry) {
		addr, proto, port := readKey(e.key)
		k := lb.Key{VIP: addr, Protocol: proto, Port: port}
		if of.Published() {
			if p.opts.Pool.Contains(addr) || proto != of.Protocol || port != of.Port {
				return
			}
			on = append(on, addr)
			k.VIP = netip.Addr{}
		} else if addr != of.VIP || port == 0 && proto == model.SCTP {
			return
		}
		if found[k] != nil {
			return
		}
		chain := chains[e.value]
		b, ok := parseBalancer(chain)
		f := &lb.FrontView{Key: k, Scheduler: b.scheduler, Affinity: b.affinity}
		f.Open = ok && b.scheduler != ""
		f.Steps = []lb.Step{{What: "map", OK: f.Open, Evidence: fmt.Sprintf("services %s . %s . %d goto %s", addr, proto, port, cmp.Or(chain, "nowhere: it has no balancer"))}}
		if ok && !f.Open {
			f.Steps[0].Evidence += ", which lets no new connection in: no task is in rotation for it"
		}
		slotsSeen[k] = -b.slots
		counts[b.affinity > 0][k] = true
		found[k] = f
	})
	if err != nil || len(found) == 0 {
		return nil, on, err
	}
	for _, s := range []*set{slots, ids} {
		if err := listed(c, s, func(e entry) {
			if k := keyOf(e.key); counts[s == ids][k] {
				slotsSeen[k]++
			}
		}); err != nil {
			return nil, nil, err
		}
	}
	if err := listed(c, backends, func(e entry) {
		if f := found[keyOf(e.key)]; f != nil {
			f.Backends = append(f.Backends, lb.BackendView{Addr: readEndpoint(e.key[len(e.key)-8:]), Weight: int(readNumber(e.value))})
		}
	}); err != nil {
		return nil, nil, err
	}
	named := func(k lb.Key) bool { return found[k] != nil }
	for k, f := range found {
		if n := slotsSeen[k]; n != 0 && f.Open {
			f.Open = false
			f.Steps[0].OK = false
			f.Steps[0].Evidence += fmt.Sprintf(": its slots are not all there (%+d)", n)
		}
		slices.SortFunc(f.Backends, func(a, b lb.BackendView) int { return a.Addr.Compare(b.Addr) })
		for i := range f.Backends {
			b := &f.Backends[i]
			if err := c.flows(onlyBy(b.Addr.Addr()), func(fl *flow) {
				if !fl.at(b.Addr) || !fl.through(k, named) {
					return
				}
				if fl.established() {
					b.Active++
				} else {
					b.Inactive++
				}
			}); err != nil {
				return nil, nil, err
			}
		}
		all = append(all, *f)
	}
	isNamed := func(k lb.Key) uint16 { return min(k.Port, 1) }
	slices.SortFunc(all, func(a, b lb.FrontView) int {
		return cmp.Or(cmp.Compare(isNamed(a.Key), isNamed(b.Key)), a.Key.Compare(b.Key)) // all ports first
	})
	slices.SortFunc(on, netip.Addr.Compare)
	return all, on, nil
}

// listed lists a set; one that is not there is empty.
func listed(c *conn, s *set, visit func(entry)) error {
	if err := c.list(s, visit); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// Client reads as whom tasks see a client of a published port.
func (p *Plane) Client(addr netip.Addr) (lb.ClientView, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := lb.ClientView{Kept: true, Addr: addr, Evidence: "no entry of the set " + inside.name + " has it"}
	if r, err := kernel.RouteTo(addr, 0); err != nil {
		return v, err
	} else if r != nil && r.Type == unix.RTN_LOCAL {
		v.Kept, v.Evidence = false, fmt.Sprintf("%s is this host's own address", addr)
		return v, nil
	}
	c, err := open()
	if err != nil {
		return v, err
	}
	defer c.Close()
	err = listed(c, inside, func(e entry) {
		first, last := netip.AddrFrom4([4]byte([]byte(e.key[:4]))), netip.AddrFrom4([4]byte([]byte(e.key[4:])))
		if first.Compare(addr) <= 0 && addr.Compare(last) <= 0 {
			v.Kept, v.Evidence = false, fmt.Sprintf("%s %s-%s", inside.name, first, last)
		}
	})
	return v, err
}

// Stats visits what was counted of each frontend: its connections. The kernel
// counts the packets that found the service, which are the first of each.
func (p *Plane) Stats(visit func(lb.Key, lb.Stats)) error {
	c, err := open()
	if err != nil {
		return err
	}
	defer c.Close()
	return listed(c, services, func(e entry) {
		addr, proto, port := readKey(e.key)
		k := lb.Key{VIP: addr, Protocol: proto, Port: port}
		switch {
		case !p.opts.Pool.Contains(addr):
			k.VIP = netip.Addr{}
		case port == 0 && proto == model.SCTP:
			k.Protocol = model.TCP
		}
		visit(k, lb.Stats{Connections: e.packets})
	})
}
