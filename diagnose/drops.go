package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"shoal/firewall"
	"shoal/model"
)

// A connection meets the firewalls of two hosts: the one where the client is, or
// whose published port it asks for, and the task's. Each host leads the first packet
// through its own rules.

// ports are what a task is sent to: what its labels name, else the port that is
// asked for, else one that is not known.
func ports(t *model.Task, asked askedPort) (all []askedPort) {
	for _, p := range t.Spec.Ports {
		all = append(all, askedPort{p.Target, p.Protocol})
	}
	for _, p := range t.Spec.Publish {
		all = append(all, askedPort{p.Target, p.Protocol})
	}
	if t.AllPorts() && asked.port != 0 {
		all = append(all, asked)
	}
	if len(all) == 0 {
		all = append(all, askedPort{0, model.TCP})
	}
	return all[:min(len(all), maxPublishedSteps)]
}

// through are the hooks that a packet passes which this host forwards.
func through(in, out string, src, dst netip.Addr, to askedPort, dnat bool) []firewall.Crossing {
	p := firewall.Packet{In: in, Src: src, Dst: dst, Protocol: uint8(to.proto), Port: to.port}
	forward, post := p, p
	forward.Out, forward.DNAT = out, dnat
	post.In, post.Out, post.DNAT = "", out, dnat
	all := []firewall.Crossing{{Hook: "forward", Packet: forward}, {Hook: "postrouting", Packet: post}}
	when := firewall.Always
	if dnat {
		when = firewall.AfterDNAT
	}
	return append(all, firewall.Crossing{Hook: "prerouting", Packet: p, When: when})
}

// dropsToTasks are what firewalls of this host drop of what other hosts send to its
// tasks of a service.
func (in *Inspector) dropsToTasks(s *model.Snapshot, what string) (ps []model.Problem) {
	id, err := model.ParseServiceID(what)
	svc, ok := s.Service(id)
	if err != nil || !ok {
		return nil
	}
	var crossings []firewall.Crossing
	for _, t := range svc.Tasks {
		if t.Node != s.Self.Name || !t.Addr.Is4() || t.Addr == s.Self.Addr {
			continue
		}
		out := in.device(t.Addr)
		for _, n := range s.Nodes {
			if n.Name == s.Self.Name || !n.Alive {
				continue
			}
			for _, src := range []netip.Addr{n.Addr, n.Probe} {
				if !src.Is4() {
					continue
				}
				for _, to := range ports(t, askedPort{}) {
					crossings = append(crossings, through(in.device(src), out, src, t.Addr, to, false)...)
				}
			}
		}
	}
	for _, d := range in.dropped(crossings) {
		ps = append(ps, model.Problem{Node: s.Self.Name, Code: model.FirewallDrops, Kind: "firewall", Object: what, Reason: d.String() + ": run on this host: " + d.Remedy()})
	}
	return ps
}

// dropsFrom tells what firewalls of this host drop of what a client sends to a
// service's VIP, or to a published port, and on to tasks.
func (in *Inspector) dropsFrom(e *walk, s *model.Snapshot, svc *model.Service, q Question, tasks []netip.Addr) {
	var crossings []firewall.Crossing
	from, local := in.device(q.from), q.from == s.Self.Addr
	dnat := q.port != 0 || in.SocketGroup == "" // else connect() has put the task's address in its place
	first := firewall.Packet{In: from, Src: q.from, Dst: svc.VIP, Protocol: uint8(model.TCP), Port: q.wants.port}
	if q.wants.port != 0 {
		first.Protocol = uint8(q.wants.proto)
	}
	if q.port != 0 {
		first.Dst, first.Protocol, first.Port, first.Local = s.Self.Addr, uint8(q.proto), q.port, true
	}
	if !local && first.Dst.Is4() {
		crossings = append(crossings, firewall.Crossing{Hook: "prerouting", Packet: first, When: firewall.BeforeDNAT})
	}
	for _, t := range svc.Tasks {
		if !slices.Contains(tasks, t.Addr) || !t.Addr.Is4() {
			continue
		}
		out := in.device(t.Addr)
		for _, to := range ports(t, q.wants) {
			if !local {
				crossings = append(crossings, through(from, out, q.from, t.Addr, to, dnat)...)
				continue
			}
			p := firewall.Packet{Out: out, Src: q.from, Dst: t.Addr, Protocol: uint8(to.proto), Port: to.port}
			crossings = append(crossings, firewall.Crossing{Hook: "output", Packet: p}, firewall.Crossing{Hook: "postrouting", Packet: p})
		}
	}
	for _, d := range in.dropped(crossings) {
		e.fix("firewall", fmt.Sprintf("run on host %s: %s", s.Self.Name, d.Remedy()), "%s", d.String())
	}
}

func (in *Inspector) dropped(crossings []firewall.Crossing) []firewall.Drop {
	if len(crossings) == 0 {
		return nil
	}
	drops, err := in.Drops(crossings)
	if err != nil {
		return nil // it is a problem of its own
	}
	return drops
}

// device is the one by which this host sends to an address; "": not known.
func (in *Inspector) device(to netip.Addr) string {
	h, err := in.Routes.Inspect(to)
	if err != nil {
		return ""
	}
	return h.Device
}
