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

	"shoal/catalog"
	"shoal/kernel/ipset"
	"shoal/kernel/rules"
	"shoal/virtual"
)

// View is what the kernel of this host has of one published port, read from it
// there and then, in the order in which a packet meets it.
type View struct {
	Protocol  catalog.Protocol `json:"protocol"`
	Port      uint16           `json:"port"`
	Sets      []string         `json:"sets"`                // entries by which the host redirects the port; none: it does not
	Redirect  []string         `json:"redirect"`            // the rules that do, as iptables prints them
	Broken    []string         `json:"broken,omitempty"`    // what is not right with the rules, here and in the sandbox; none if they are
	Blocked   string           `json:"blocked,omitempty"`   // who has the port on this host, so that it is not redirected
	Sandbox   netip.Addr       `json:"sandbox"`             // where it is redirected to
	Netns     string           `json:"netns"`               // the sandbox's name
	Mark      uint32           `json:"mark"`                // of the port in the sandbox; 0: none, new connections are refused
	Scheduler string           `json:"scheduler,omitempty"` // of the virtual service; "": there is none
	Affinity  uint32           `json:"affinity,omitempty"`  // seconds
	Dests     []DestView       `json:"destinations"`        // by address
	Returns   []ReturnView     `json:"returns"`             // how replies come back
}

// DestView is one destination of a virtual service, and the way to it.
type DestView struct {
	Addr     netip.AddrPort `json:"addr"`
	Weight   int            `json:"weight"`
	Active   int            `json:"active"`   // connections established
	Inactive int            `json:"inactive"` // others
	Route    string         `json:"route"`    // the host's, "10.244.2.0/24 via 192.168.1.2 dev eth0"; "": none
}

// ReturnView is where this host sends the replies to connections that a
// sandbox made.
type ReturnView struct {
	Node  string        `json:"node"`           // whose sandbox
	Mark  uint32        `json:"mark"`           // of the connections
	MACs  []catalog.MAC `json:"macs,omitempty"` // known by these; none of our own
	Route string        `json:"route"`          // "": none
}

// Inspect reads what the kernel has of a published port. It writes nothing and
// believes nothing that was written before.
func (g *Ingress) Inspect(ctx context.Context, number uint16, proto catalog.Protocol) (*View, error) {
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
		}
	}
	slices.Sort(v.Sets)
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
	}
	return v, g.inspectReturns(v)
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

func (g *Ingress) inspectReturns(v *View) error {
	views := []ReturnView{{Node: g.self, Mark: markOurs}}
	for _, p := range g.base.peers {
		views = append(views, ReturnView{Node: p.name, Mark: p.mark(), MACs: p.macs})
	}
	for _, r := range views {
		route, err := lookup(nowhere, r.Mark)
		if err != nil {
			return err
		}
		if route != nil && route.Table == int(r.Mark) {
			r.Route = describe(route)
		}
		v.Returns = append(v.Returns, r)
	}
	return nil
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
