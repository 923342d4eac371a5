package ipvs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"shoal/kernel/ipset"
	"shoal/kernel/rules"
	"shoal/model"
	"shoal/virtual"
)

// View is what the kernel has of one VIP, read from it there and then.
type View struct {
	VIP    netip.Addr  `json:"vip"`
	Route  string      `json:"route"`            // the route to it, as ip route prints it; "" if it is not the local one
	Rules  []string    `json:"rules"`            // the rules that give marks, as iptables prints them
	Broken []string    `json:"broken,omitempty"` // what is not right with the rules; none if they are
	Ping   bool        `json:"ping"`             // ping is answered
	Fronts []FrontView `json:"fronts"`           // all ports first
}

// FrontView is what the kernel has of the ports of a VIP that are balanced
// together.
type FrontView struct {
	Protocol  model.Protocol `json:"protocol"`       // for all ports, TCP is SCTP too
	Port      uint16         `json:"port,omitempty"` // 0: all ports that are not named
	Set       string         `json:"set"`            // the ipset that holds the mark
	Mark      uint32         `json:"mark"`           // of packets, and of the virtual service
	Open      bool           `json:"open"`           // new connections are let in
	Service   bool           `json:"service"`        // IPVS has a service of that mark
	Scheduler string         `json:"scheduler,omitempty"`
	Affinity  uint32         `json:"affinity,omitempty"` // seconds
	Dests     []DestView     `json:"destinations"`       // by address
}

// DestView is one destination of a virtual service.
type DestView struct {
	Addr     netip.AddrPort `json:"addr"` // port 0: the packet's own
	Weight   int            `json:"weight"`
	Active   int            `json:"active"`   // connections established
	Inactive int            `json:"inactive"` // others
}

// Held tells what the virtual services still have to do with a task.
func (b *Balancer) Held(task netip.Addr) (virtual.Held, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.table.Held(task)
}

// Inspect reads what the kernel has of a VIP. It writes nothing and believes
// nothing that was written before.
func (b *Balancer) Inspect(ctx context.Context, vip netip.Addr) (*View, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := &View{VIP: vip}
	if r, err := lookup(netip.PrefixFrom(vip, vip.BitLen())); err != nil {
		return nil, err
	} else if r != nil && r.Dst != nil && r.Dst.String() == b.opts.Pool.String() {
		v.Route = fmt.Sprintf("local %s dev lo", r.Dst)
		if r.Src != nil {
			v.Route += " src " + r.Src.String()
		}
	}
	want := b.chains()
	have, err := rules.Read(ctx, rules.Tables(want)...)
	if err != nil {
		return nil, err
	}
	_, v.Broken = rules.Diff(want, have)
	for _, rule := range have["mangle"]["SHOAL-MARK"] {
		v.Rules = append(v.Rules, "-A SHOAL-MARK "+rule)
	}
	table, err := b.table.IPVS.Table()
	if err != nil {
		return nil, err
	}
	for _, s := range sets {
		held, err := ipset.List(s.Name)
		if err != nil && !errors.Is(err, ipset.ErrNotExist) {
			return nil, err
		}
		if _, has := held[ipset.Addr(vip)]; has && s.Name == setPing.Name {
			v.Ping = true
		}
		for e, mark := range held {
			f, has := frontOf(s.Name, e)
			if !has || f.vip != vip {
				continue
			}
			fv := FrontView{Protocol: f.proto, Port: f.port, Set: s.Name, Mark: mark &^ parked, Open: mark&parked == 0}
			if svc := table[fv.Mark]; svc != nil {
				fv.Service, fv.Scheduler, fv.Affinity = true, svc.Scheduler, svc.Affinity
				for _, a := range slices.SortedFunc(maps.Keys(svc.Dests), netip.AddrPort.Compare) {
					d := svc.Dests[a]
					fv.Dests = append(fv.Dests, DestView{a, d.Weight, d.Active, d.Inactive})
				}
			}
			v.Fronts = append(v.Fronts, fv)
		}
	}
	slices.SortFunc(v.Fronts, func(x, y FrontView) int {
		return front{vip, x.Protocol, x.Port}.compare(front{vip, y.Protocol, y.Port})
	})
	return v, nil
}
