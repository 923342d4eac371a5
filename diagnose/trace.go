package diagnose

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"shoal/api"
	"shoal/model"
)

// A trace is put together of what several agents read from their own kernels
// ([Inspector.Part]). The host where the packet meets a balancer tells the way to
// there, and which tasks may be chosen: for a name that is the sender's own host,
// for a published port the one that is named. The hosts of those tasks tell the
// rest.

// What bounds a trace.
const (
	maxTraced    = 300             // characters of what is traced, and of who sends
	maxFollowed  = 64              // tasks that are followed to their hosts
	traceTimeout = 5 * time.Second // for another host's part
)

// Trace follows a packet from a container, an address or this host ("") to a
// service, by any form of its name, or to a published port of a host.
func (in *Inspector) Trace(ctx context.Context, from, to string) (*api.Explanation, error) {
	if len(from) > maxTraced {
		return nil, wrong("trace: names are of %d characters at most", maxTraced)
	}
	s, err := in.Snapshot()
	if err != nil {
		return nil, err
	}
	m, err := in.means(s, to)
	if err != nil {
		return nil, err
	}
	client, err := findSender(s, from)
	if errors.Is(err, api.ErrNotFound) {
		client, err = in.findSenderElsewhere(ctx, s, from)
	}
	if err != nil {
		return nil, err
	}
	e := newWalk(to, s.Self.Name)
	if !client.addr.Is4() {
		e.fix("client", "have it connect by IPv4: a container by a network with IPv4 (docker network connect "+in.MeshNetwork+"), others to a host's IPv4 address",
			"%s sends from %s: names, VIPs and published ports are IPv4 alone", client.who, client.addr)
		return &e.Explanation, nil
	}
	if m.published {
		err = in.tracePublished(ctx, e, s, &m, client)
	} else {
		err = in.traceService(ctx, e, s, &m, client)
	}
	return &e.Explanation, err
}

// traceService follows a packet to a service.
func (in *Inspector) traceService(ctx context.Context, e *walk, s *model.Snapshot, m *meaning, client sender) error {
	first := s.Self
	if n, ok := nodeOf(s, client.node); ok {
		first = n
	}
	q := Question{name: m.name, from: client.addr, client: client.id, wants: m.asked()}
	if q.name == "" {
		svc, err := m.service(s)
		if err != nil {
			return err
		}
		if svc == nil {
			return m.unknown(s)
		}
		q.name, q.byAddr = svc.ID.Name+"."+svc.ID.Stack, true
	}
	p, err := in.ask(ctx, s, first, q)
	if err != nil && first.Name == s.Self.Name {
		return err
	}
	in.tellTasks(ctx, e, s, first, p, err, m.asked())
	if p.Service == "" && err == nil {
		word := orElse(m.target.name, m.host)
		found := in.look(ctx, s, word).containers()
		if m.port != 0 && len(found) == 0 && !answered(p) { // then HOST:PORT was meant
			return m.unknown(s)
		}
		for _, c := range found {
			if s.Containers.Find(c.Node, c.ID) == nil || c.Services == nil {
				e.at(c.Node, absentStep(s, c, model.ServiceID{Name: word}, false))
			}
		}
	}
	in.followTasks(ctx, e, s, p.Next, "")
	return nil
}

// answered tells whether a name is anything to the one who asks for it, be it of others.
func answered(p Part) bool {
	return slices.ContainsFunc(p.Steps, func(s api.Step) bool { return s.What == "name" && s.OK })
}

// tracePublished follows a packet to a published port.
func (in *Inspector) tracePublished(ctx context.Context, e *walk, s *model.Snapshot, m *meaning, client sender) error {
	if isLoopback(m.host) && (client.container || client.node != s.Self.Name) {
		return wrong("%s is where %s itself runs, not a host: write HOST:PORT", m.host, client.who)
	}
	q := Question{port: m.port, proto: m.proto, from: client.seenBy(s, m.node)}
	switch {
	case isLoopback(m.host):
		q.at = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case m.host != "":
		q.at = m.node.Addr
	}
	e.step("client", true, "%s; to %s it is %s", client, m.node.Name, q.from)
	p, err := in.ask(ctx, s, m.node, q)
	if err != nil && m.node.Name == s.Self.Name {
		return err
	}
	in.tellTasks(ctx, e, s, m.node, p, err, askedPort{})
	in.followTasks(ctx, e, s, p.Next, m.node.Name)
	return nil
}

// tellTasks adds a host's part, and before what it tells of the way to the tasks,
// how these are.
func (in *Inspector) tellTasks(ctx context.Context, e *walk, s *model.Snapshot, n model.Node, p Part, err error, asked askedPort) {
	e.adoptAround(n, p, err, func() {
		id, bad := model.ParseServiceID(p.Service)
		svc, ok := s.Service(id)
		if bad != nil || !ok {
			return
		}
		all := in.look(ctx, s, svc.ID.String())
		in.taskSteps(e, s, svc, all, asked)
		askedStep(e, svc, asked)
		problemSteps(e, svc, all)
	})
}

// followTasks asks the hosts of tasks for the ends of the ways there, side by
// side. The packet leaves the sandbox of the host entry; "": none.
func (in *Inspector) followTasks(ctx context.Context, e *walk, s *model.Snapshot, tasks []Hop, entry string) {
	if len(tasks) > maxFollowed {
		e.step("task", true, "%d tasks may be chosen; the first %d are followed", len(tasks), maxFollowed)
		tasks = tasks[:maxFollowed]
	}
	on := map[string][]netip.Addr{}
	for _, t := range tasks {
		if !t.Addr.Is4() {
			continue
		}
		on[t.Node] = append(on[t.Node], t.Addr)
	}
	type answer struct {
		from model.Node
		part Part
		err  error
	}
	var all []*answer
	var asked sync.WaitGroup
	for _, name := range slices.Sorted(maps.Keys(on)) {
		n, ok := nodeOf(s, name)
		if !ok {
			continue // out of the cluster, as its route said
		}
		an := &answer{from: n}
		all = append(all, an)
		asked.Go(func() { an.part, an.err = in.ask(ctx, s, n, Question{tasks: on[name], entry: entry}) })
	}
	asked.Wait()
	for _, an := range all {
		e.adopt(an.from, an.part, an.err)
	}
}

// ask has a host tell its part of a trace, by its agent.
func (in *Inspector) ask(ctx context.Context, s *model.Snapshot, n model.Node, q Question) (Part, error) {
	if n.Name == s.Self.Name {
		return in.Part(ctx, q, false)
	}
	ctx, cancel := context.WithTimeout(ctx, traceTimeout)
	defer cancel()
	p, err := in.Peer(ctx, n.Addr, q)
	for i := range p.Steps {
		p.Steps[i].What, p.Steps[i].Evidence = printable(p.Steps[i].What), printable(p.Steps[i].Evidence)
	}
	return p, err
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// findHost finds a host by its name or its address; this one is also "" and
// localhost.
func findHost(s *model.Snapshot, host string) (model.Node, error) {
	if host == "" || isLoopback(host) {
		return s.Self, nil
	}
	if n, ok := nodeOf(s, host); ok {
		return n, nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		for _, n := range s.Nodes {
			if n.Addr == addr.Unmap() {
				return n, nil
			}
		}
	}
	return model.Node{}, wrong("%q is no host of the cluster: %s", host, hostsText(s))
}

// mostHosts is how many hosts are named.
const mostHosts = 20

// hostsText says which hosts there are.
func hostsText(s *model.Snapshot) string {
	var names []string
	for _, n := range s.Nodes[:min(len(s.Nodes), mostHosts)] {
		names = append(names, fmt.Sprintf("%s (%s)", n.Name, n.Addr))
	}
	if more := len(s.Nodes) - mostHosts; more > 0 {
		names = append(names, fmt.Sprintf("and %d more, see shoal nodes", more))
	}
	return "the hosts are " + strings.Join(names, ", ")
}

func nodeOf(s *model.Snapshot, name string) (model.Node, bool) {
	if name == s.Self.Name {
		return s.Self, true
	}
	i := slices.IndexFunc(s.Nodes, func(n model.Node) bool { return n.Name == name })
	if i < 0 {
		return model.Node{}, false
	}
	return s.Nodes[i], true
}
