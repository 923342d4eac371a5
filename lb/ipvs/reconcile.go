package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/kernel/ipset"
	"shoal/lb"
	"shoal/model"
	"shoal/reconcile"
)

// drainLook is how often a draining destination is looked at.
const drainLook = 200 * time.Millisecond

// The parts of the kernel that a pass reads. While one cannot be read, nothing
// is written there by guess.
const (
	partHost = "kernel"
	partBox  = "sandbox"
	partSet  = "set " // and its name
)

// Reconcile makes the kernel carry what the deltas so far say. The first pass
// reads everything; a full one reads it again, and repairs what others broke. Any
// other takes time by what has changed, and runs no program unless hosts or
// networks changed.
func (p *Plane) Reconcile(ctx context.Context, d lb.Delta, full bool) lb.Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	ensureHost := p.merge(&d)
	retryBox := p.failures.Err(lb.Object{Part: partBox}) == nil && !p.box.read
	for _, o := range p.failures.Due(now) {
		switch name, isSet := strings.CutPrefix(o.Part, partSet); {
		case o.Part == "":
			p.retry(o.Key)
		case isSet:
			p.host.touchSet(name)
			p.box.touchSet(name)
		case o.Part == partBox:
			retryBox = true
		default:
			ensureHost = true
		}
	}

	full = full || !p.host.read
	p.auditing = p.auditing || full
	err := model.KernelReadFailed.Of(p.host.auditAll(full))
	p.failures.Put(lb.Object{Part: partHost}, err, now)
	if err != nil {
		return p.result(now) // what is wanted is not lost
	}
	if full || retryBox {
		p.failures.Put(lb.Object{Part: partBox}, p.openBox(ctx), now)
	}
	if p.failures.Err(lb.Object{Part: partBox}) == nil {
		known := p.box.read
		err := model.KernelReadFailed.Of(p.box.auditAll(full))
		p.failures.Put(lb.Object{Part: partBox}, err, now)
		if err == nil && !known {
			p.host.touchSet(setPublished.Name) // it may have been left to this pass
		}
	}

	p.apply(now)

	if p.auditing && len(p.host.audit)+len(p.box.audit) == 0 {
		p.auditing, ensureHost = false, true
	}
	if p.bridges || ensureHost {
		p.ensureBridges(now)
	}
	if ensureHost {
		// Last, so that nothing is let in or sent on before there is a service.
		p.ensure(ctx, now)
	}
	return p.result(now)
}

func (p *Plane) result(now time.Time) lb.Result {
	r := lb.Result{Next: p.failures.Next(now), More: p.auditing && p.host.read, Failures: p.failures.List(lb.Object.Compare)}
	if len(p.host.draining)+len(p.box.draining) > 0 {
		r.Next = reconcile.Sooner(r.Next, drainLook)
	}
	return r
}

// spaceOf is where a frontend is balanced.
func (p *Plane) spaceOf(k lb.Key) *space {
	if k.Published() {
		return p.box
	}
	return p.host
}

// merge adds a delta to what is wanted. It tells whether what all frontends stand on changed.
func (p *Plane) merge(d *lb.Delta) (ensureHost bool) {
	for k, f := range d.Frontends {
		s := p.spaceOf(k)
		p.count(s.frontends[k], -1)
		p.count(f, +1)
		if s.frontends[k] = f; f == nil {
			delete(s.frontends, k)
		}
		s.todo.keys[k] = true
	}
	for k, f := range d.Withheld {
		p.countTargets(p.withheld[k], -1)
		p.countTargets(f, +1)
		if p.withheld[k] = f; f == nil {
			delete(p.withheld, k)
		}
	}
	for a, rests := range d.Resting {
		n := -1
		if rests {
			n = +1
		}
		p.host.wants(setResting, ipset.Addr(a), n)
	}
	for a, e := range d.Endpoints {
		if old, had := p.endpoints[a]; had {
			p.countEndpoint(a, old, -1)
		}
		delete(p.endpoints, a)
		if e != nil {
			p.countEndpoint(a, *e, +1)
			p.endpoints[a] = *e
		}
	}
	if d.Base == nil {
		return false
	}
	p.countBase(p.base, -1)
	p.countBase(d.Base, +1)
	senders, outers := peerMarks(d.Base.Peers)
	p.host.wantsMarks(setSenders, senders)
	p.host.wantsMarks(setOuters, outers)
	p.base, p.bridges = d.Base, true
	return true
}

// count adds what a frontend wants in sets without marks of frontends, or takes
// it off.
func (p *Plane) count(f *lb.Frontend, n int) {
	switch {
	case f == nil:
	case f.Published():
		for _, e := range redirections(f) {
			p.host.wants(setPublished, e, n)
		}
		p.countTargets(f, n)
	case f.Live():
		p.host.wants(setPing, ipset.Addr(f.VIP), n)
	}
}

// countTargets does so for this host's tasks behind a published port.
func (p *Plane) countTargets(f *lb.Frontend, n int) {
	if f == nil {
		return
	}
	for _, b := range f.Backends {
		if b.Local {
			p.host.wants(setTargets, ipset.AddrPort(b.Addr.Addr(), uint8(f.Protocol), b.Addr.Port()), n)
		}
	}
}

// countEndpoint does so for an address of tasks. Packets of one to itself need
// masquerading, but for a task that is the host.
func (p *Plane) countEndpoint(a netip.Addr, e lb.Endpoint, n int) {
	p.host.wants(setTasks, ipset.Addr(a), n)
	if e.Local {
		p.host.wants(setLocal, ipset.Addr(a), n)
	}
	if e.Local && !e.Host {
		p.host.wants(setHairpin, ipset.Pair(a, a), n)
		p.bridges = true
	}
}

func (p *Plane) countBase(b *lb.Base, n int) {
	if b == nil {
		return
	}
	for _, network := range b.Networks {
		for _, net := range network.Subnets {
			if net.Addr().Is4() && net.Bits() > 0 {
				p.host.wants(setNets, ipset.Entry{Net: net.Masked()}, n)
				p.host.wants(setBridges, ipset.NetIface(net, network.Bridge), n)
			}
		}
	}
	for _, net := range b.Cluster {
		p.host.wants(setCluster, ipset.Entry{Net: net}, n)
	}
	for _, a := range b.Guard.Trusted {
		p.host.wants(setTrusted, ipset.Addr(a), n)
	}
	for _, net := range b.Inside {
		p.host.wants(setInside, ipset.Entry{Net: net}, n)
		p.box.wants(setClients, ipset.Entry{Net: net}, n)
	}
}

// retry has a frontend that failed compared again.
func (p *Plane) retry(k lb.Key) {
	s := p.spaceOf(k)
	s.todo.keys[k] = true
	if f := s.frontends[k]; f != nil && k.Published() {
		for _, e := range redirections(f) {
			p.host.todo.entry(setPublished.Name, e)
		}
	}
}

// auditAll begins a full pass if one is due, and goes on with it. Nothing is
// known of the kernel if that fails.
func (s *space) auditAll(full bool) error {
	if (full || !s.read) && len(s.audit) == 0 {
		s.audit = s.steps()
	}
	err := s.goOn(time.Now())
	if err != nil {
		s.unknown()
	} else if len(s.audit) == 0 {
		s.read = true
	}
	return err
}

// apply compares what was touched with what the kernel has, and writes the
// difference. What is known of the kernel follows each write that succeeded.
//
// What goes is gone before anything comes: a VIP may pass from one service to
// another. A published port leads somewhere before the host redirects it, and is
// not redirected any more before it loses that.
func (p *Plane) apply(now time.Time) {
	spaces := []*space{p.host}
	if p.box.read {
		spaces = append(spaces, p.box)
	}
	refused := map[string]map[ipset.Entry]error{}
	note := func(set ipset.Set, errs map[ipset.Entry]error) {
		for e, err := range errs {
			if set.Name == setPublished.Name {
				p.box.todo.keys[publishedKey(e)] = true
				p.box.fail(publishedKey(e), err)
				continue
			}
			if refused[set.Name] == nil {
				refused[set.Name] = map[ipset.Entry]error{}
			}
			refused[set.Name][e] = err
		}
	}
	for _, s := range spaces {
		for set := range s.want {
			// What a set refused before counts until it is taken.
			if len(s.todo.entries[set]) > 0 && p.failures.Err(lb.Object{Part: partSet + set}) != nil {
				s.touchSet(set)
			}
		}
		s.look()
		s.decide(now)
	}

	udp, served := p.udpRedirects(), p.host.servedFirst()
	stays := func(e ipset.Entry) bool { return p.box.frontends[publishedKey(e)] != nil }
	note(setPublished, p.host.drain(setPublished, stays))
	note(setPing, p.host.drain(setPing, nil))
	for _, s := range spaces {
		s.retire()
	}
	for _, set := range hostGround {
		note(set, p.host.fill(set))
	}
	if p.box.read {
		note(setClients, p.box.fill(setClients))
	}
	for _, s := range spaces {
		s.raise()
		s.giveMarks(false)
	}
	note(setPing, p.host.fill(setPing))
	if p.box.read {
		note(setPublished, p.host.fill(setPublished))
	}
	note(setPublished, p.host.drain(setPublished, nil))
	p.forgetFlows(udp)
	forgetUnserved(served)
	for _, s := range spaces {
		s.lower()
	}
	for _, set := range slices.Backward(hostGround) {
		note(set, p.host.drain(set, nil))
	}
	if p.box.read {
		note(setClients, p.box.drain(setClients, nil))
	}

	for _, s := range spaces {
		s.finish()
		for k := range s.todo.keys {
			p.failures.Put(lb.Object{Key: k}, s.failed[k], now)
		}
		for set := range s.want {
			if len(s.todo.entries[set]) > 0 {
				p.failures.Put(lb.Object{Part: partSet + set}, refusal(refused[set]), now)
			}
		}
		s.todo, s.failed = newDirty(false), map[lb.Key]error{}
	}
}

// udpRedirects tells of each UDP entry that a pass looks at whether the host
// redirects by it.
func (p *Plane) udpRedirects() map[ipset.Entry]bool {
	redirects := map[ipset.Entry]bool{}
	for e := range p.host.todo.entries[setPublished.Name] {
		if e.Proto == unix.IPPROTO_UDP {
			_, redirects[e] = p.host.held[setPublished.Name][e]
		}
	}
	return redirects
}

// forgetFlows drops what the host remembers of UDP flows to ports that it has
// begun to redirect since, or has ceased to. A sender that never pauses would
// otherwise go on as before for ever.
func (p *Plane) forgetFlows(before map[ipset.Entry]bool) {
	ports := map[uint16]bool{}
	for e, did := range before {
		if _, does := p.host.held[setPublished.Name][e]; does != did {
			ports[e.Port] = true
		}
	}
	if len(ports) == 0 {
		return
	}
	// An entry that is missed runs out by itself.
	_ = deleteConnections(func(f *netlink.ConntrackFlow) bool {
		return f.Forward.Protocol == unix.IPPROTO_UDP && ports[f.Forward.DstPort]
	})
}

// servedFirst are the VIPs whose UDP has no destination yet, and gets the first one by the changes.
func (s *space) servedFirst() map[netip.Addr]bool {
	vips := map[netip.Addr]bool{}
	for k, c := range s.changes {
		if k.Protocol != model.UDP || k.Published() || len(c.raise) == 0 {
			continue
		}
		if has := s.table.known[c.service.Mark]; has == nil || len(has.Dests) == 0 {
			vips[k.VIP] = true
		}
	}
	return vips
}

// forgetUnserved drops what the host remembers of its own processes' UDP flows to VIPs that nobody was behind. What they sent came back
// over lo and was refused, which the kernel remembers as flows to the VIPs themselves; a task's answer is part of none of these, so a
// sender that never pauses would have none for ever.
func forgetUnserved(vips map[netip.Addr]bool) {
	if len(vips) == 0 {
		return
	}
	// An entry that is missed runs out by itself.
	_ = deleteConnections(func(f *netlink.ConntrackFlow) bool {
		vip, ok := netip.AddrFromSlice(f.Forward.DstIP.To4())
		return ok && vips[vip] && f.Forward.Protocol == unix.IPPROTO_UDP && f.Reverse.SrcIP.Equal(f.Forward.DstIP)
	})
}

// flows picks connections that the kernel remembers.
type flows func(*netlink.ConntrackFlow) bool

// MatchConntrackFlow makes it a filter of netlink's.
func (f flows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool { return f(flow) }

func deleteConnections(f flows) error {
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f)
	kernel.Wrote("conntrack", int(n))
	if err != nil {
		return fmt.Errorf("delete connections: %w", err)
	}
	return nil
}
