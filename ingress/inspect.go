package ingress

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel/ipset"
	"shoal/kernel/rules"
	"shoal/model"
	"shoal/virtual"
)

// View is what the kernel of this host has of one published port, read from it
// there and then, in the order in which a packet meets it.
type View struct {
	Protocol  model.Protocol `json:"protocol"`
	Port      uint16         `json:"port"`
	Sets      []string       `json:"sets"`                // entries by which the host redirects the port; none: it does not
	On        []netip.Prefix `json:"on"`                  // the host's addresses of those entries
	Redirect  []string       `json:"redirect"`            // the rules that do, as iptables prints them
	Broken    []string       `json:"broken,omitempty"`    // what is not right with the rules, here and in the sandbox; none if they are
	Blocked   string         `json:"blocked,omitempty"`   // who has the port on this host, so that it is not redirected
	Sandbox   netip.Addr     `json:"sandbox"`             // where it is redirected to
	Netns     string         `json:"netns"`               // the sandbox's name
	Mark      uint32         `json:"mark"`                // of the port in the sandbox; 0: none, new connections are refused
	Scheduler string         `json:"scheduler,omitempty"` // of the virtual service; "": there is none
	Affinity  uint32         `json:"affinity,omitempty"`  // seconds
	Dests     []DestView     `json:"destinations"`        // by address
	Returns   []ReturnView   `json:"returns"`             // how replies come back
}

// DestView is one destination of a virtual service, and the way to it.
type DestView struct {
	Addr     netip.AddrPort `json:"addr"`
	Weight   int            `json:"weight"`
	Active   int            `json:"active"`   // connections established
	Inactive int            `json:"inactive"` // others
	Route    string         `json:"route"`    // the host's, "10.244.2.0/24 via 192.168.1.2 dev eth0"; "": none

	// Source is as whom the destination sees a client that does not keep its
	// address: that of the device which the route leaves by.
	Source netip.Addr `json:"source,omitzero"`
}

// ClientView is how a client comes through the sandbox.
type ClientView struct {
	Addr   netip.Addr `json:"addr"`             // by which it enters the sandbox: of a process of this host, the host's end of the link
	Inside string     `json:"inside,omitempty"` // the entry that makes it one of the cluster, whose address is not kept; "": it keeps it
}

// ReturnView is where this host sends the replies to connections that a
// sandbox made.
type ReturnView struct {
	Node  string      `json:"node"`           // whose sandbox
	Mark  uint32      `json:"mark"`           // of the connections
	MACs  []model.MAC `json:"macs,omitempty"` // known by these; none of our own
	Route string      `json:"route"`          // "": none
}

// Inspect reads what the kernel has of a published port. It writes nothing and
// believes nothing that was written before.
func (g *Ingress) Inspect(ctx context.Context, number uint16, proto model.Protocol) (*View, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := port{proto, number}
	v := &View{Protocol: proto, Port: number, Sandbox: sandboxAddr, Netns: g.opts.Netns}
	if err := g.blocked[p]; err != nil {
		v.Blocked = err.Error()
	}
	held, err := ipset.List(setPublished.Name)
	if err != nil && !errors.Is(err, ipset.ErrNotExist) {
		return nil, err
	}
	for e := range held {
		if e.Port == number && e.Proto == uint8(proto) {
			v.Sets = append(v.Sets, fmt.Sprintf("%s %s,%s:%d", setPublished.Name, e.Net, proto, number))
			v.On = append(v.On, e.Net)
		}
	}
	slices.Sort(v.Sets)
	slices.SortFunc(v.On, netip.Prefix.Compare)
	want := hostChains(g.opts.Pool, &g.base)
	have, err := rules.Read(ctx, rules.Tables(want)...)
	if err != nil {
		return nil, err
	}
	_, v.Broken = rules.Diff(want, have)
	for _, r := range have["nat"]["SHOAL-IN"] {
		if strings.Contains(r, setPublished.Name) {
			v.Redirect = append(v.Redirect, "-A SHOAL-IN "+r)
		}
	}
	if g.sandbox.ns.IsOpen() {
		if err := g.sandbox.do(func() error { return g.inspectSandbox(ctx, p, v) }); err != nil {
			return nil, err
		}
	}
	for i := range v.Dests {
		r, err := lookup(v.Dests[i].Addr.Addr(), 0)
		if err != nil {
			return nil, err
		}
		v.Dests[i].Route = describe(r)
		if v.Dests[i].Source, err = masquerade(r, v.Dests[i].Addr.Addr()); err != nil {
			return nil, err
		}
	}
	v.Returns, err = g.returns()
	return v, err
}

// Client reads as whom a client that sends to this host, from that address,
// comes through the sandbox.
func (g *Ingress) Client(addr netip.Addr) (*ClientView, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := &ClientView{Addr: addr}
	if r, err := lookup(addr, 0); err != nil {
		return nil, err
	} else if r != nil && r.Type == unix.RTN_LOCAL {
		v.Addr = hostAddr
	}
	if !g.sandbox.ns.IsOpen() {
		return v, nil
	}
	return v, g.sandbox.do(func() error {
		held, err := ipset.List(setClients.Name)
		if errors.Is(err, ipset.ErrNotExist) {
			return nil
		}
		if e, has := narrowest(held, v.Addr); has {
			v.Inside = fmt.Sprintf("%s %s", setClients.Name, e)
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

// Returns reads how this host sends back the replies to what sandboxes sent.
func (g *Ingress) Returns() ([]ReturnView, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.returns()
}

// Held tells what the sandbox still has to do with a task.
func (g *Ingress) Held(task netip.Addr) (virtual.Held, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.table.IPVS == nil {
		return virtual.Held{}, nil
	}
	return g.table.Held(task)
}

func (g *Ingress) inspectSandbox(ctx context.Context, p port, v *View) error {
	want := sandboxChains()
	have, err := rules.Read(ctx, rules.Tables(want)...)
	if err != nil {
		return err
	}
	_, broken := rules.Diff(want, have)
	for _, b := range broken {
		v.Broken = append(v.Broken, "in the sandbox: "+b)
	}
	held, err := ipset.List(setPorts.Name)
	if err != nil && !errors.Is(err, ipset.ErrNotExist) {
		return err
	}
	v.Mark = held[ipset.AddrPort(sandboxAddr, uint8(p.proto), p.number)]
	if g.table.IPVS == nil {
		return nil
	}
	table, err := g.table.IPVS.Table()
	if err != nil {
		return err
	}
	s, ok := table[p.mark()]
	if !ok {
		return nil
	}
	v.Scheduler, v.Affinity = s.Scheduler, s.Affinity
	for _, a := range slices.SortedFunc(maps.Keys(s.Dests), netip.AddrPort.Compare) {
		d := s.Dests[a]
		v.Dests = append(v.Dests, DestView{Addr: a, Weight: d.Weight, Active: d.Active, Inactive: d.Inactive})
	}
	return nil
}

func (g *Ingress) returns() ([]ReturnView, error) {
	views := []ReturnView{{Node: g.self, Mark: markOurs}}
	for _, p := range g.base.peers {
		views = append(views, ReturnView{Node: p.name, Mark: p.mark(), MACs: p.macs})
	}
	for i := range views {
		r := &views[i]
		route, err := lookup(nowhere, r.Mark)
		if err != nil {
			return nil, err
		}
		if route != nil && route.Table == int(r.Mark) {
			r.Route = describe(route)
		}
	}
	return views, nil
}

// masquerade is the address that a packet to an address is given by a rule that
// masquerades it; zero: there is no route.
func masquerade(r *netlink.Route, to netip.Addr) (netip.Addr, error) {
	if r == nil {
		return netip.Addr{}, nil
	}
	if gw, ok := netip.AddrFromSlice(r.Gw); ok {
		to = gw.Unmap()
	}
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the device of the route to %s: %w", to, err)
	}
	on, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list the addresses of %s: %w", link.Attrs().Name, err)
	}
	var addrs []netip.Prefix
	for _, a := range on {
		ip, ok := netip.AddrFromSlice(a.IP)
		if bits, _ := a.Mask.Size(); ok && a.Scope < unix.RT_SCOPE_LINK && a.Flags&unix.IFA_F_SECONDARY == 0 {
			addrs = append(addrs, netip.PrefixFrom(ip.Unmap(), bits))
		}
	}
	return sourceFor(to, addrs), nil
}

// sourceFor is the first address of a device in whose network the next hop is,
// or else its first of all (net/ipv4/devinet.c, inet_select_addr); zero: none.
func sourceFor(hop netip.Addr, addrs []netip.Prefix) (source netip.Addr) {
	for _, a := range addrs {
		if a.Contains(hop) {
			return a.Addr()
		}
		if !source.IsValid() {
			source = a.Addr()
		}
	}
	return source
}

// describe is a route in the words of ip route.
func describe(r *netlink.Route) string {
	if r == nil {
		return ""
	}
	s := "default"
	if !isDefault(r) {
		s = r.Dst.String()
	}
	if len(r.Gw) > 0 {
		s += " via " + r.Gw.String()
	}
	if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
		s += " dev " + link.Attrs().Name
	}
	return s
}
