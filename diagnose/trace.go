package diagnose

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
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
// service's name, or to a published port, written HOST:PORT[/PROTO] or :PORT.
func (in *Inspector) Trace(ctx context.Context, from, to string) (*api.Explanation, error) {
	if len(from) > maxTraced || len(to) > maxTraced {
		return nil, fmt.Errorf("trace: names are of %d characters at most", maxTraced)
	}
	s, err := in.Snapshot()
	if err != nil {
		return nil, err
	}
	what, err := parseTarget(to)
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
	if !client.addr.Is4() {
		return nil, fmt.Errorf("trace from %s: the mesh carries IPv4 only", from)
	}
	e := newWalk(to, s.Self.Name)
	first, q, entry := s.Self, Question{name: what.name, from: client.addr}, ""
	if what.name == "" {
		if first, err = findHost(s, what.host); err != nil {
			return nil, err
		}
		if isLoopback(what.host) && (client.container || client.node != s.Self.Name) {
			return nil, fmt.Errorf("%s is where %s itself runs, not a host: write HOST:PORT", what.host, client.who)
		}
		entry = first.Name
		q = Question{port: what.port, proto: what.proto, from: client.seenBy(s, first)}
		switch {
		case isLoopback(what.host):
			q.at = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		case what.host != "":
			q.at = first.Addr
		}
		e.step("client", true, "%s; to %s it is %s", client, first.Name, q.from)
	} else if n, ok := nodeOf(s, client.node); ok {
		first = n
	}

	p, err := in.ask(ctx, s, first, q)
	if err != nil && first.Name == s.Self.Name {
		return nil, err
	}
	e.adopt(first, p, err)
	in.followTasks(ctx, e, s, p.Next, entry)
	return &e.Explanation, nil
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

// target is what is traced: a name, or a port of a host ("": this one).
type target struct {
	name  string
	host  string
	port  uint16
	proto model.Protocol
}

// parseTarget reads NAME, STACK/NAME or HOST:PORT[/PROTO].
func parseTarget(s string) (t target, err error) {
	switch {
	case s == "":
		return t, errors.New("trace: say what: a name, or HOST:PORT")
	case strings.Contains(s, ":"):
		t.host, t.port, t.proto, err = splitPort(s)
	case strings.Contains(s, "/"):
		var id model.ServiceID
		id, err = model.ParseServiceID(s)
		t.name = id.Name + "." + id.Stack
	default:
		t.name = s
	}
	return t, err
}

// splitPort reads HOST:PORT[/PROTO].
func splitPort(s string) (host string, port uint16, proto model.Protocol, err error) {
	proto = model.TCP
	hostport, p, found := strings.Cut(s, "/")
	if found {
		if proto, err = model.ParseProtocol(p); err != nil {
			return "", 0, 0, fmt.Errorf("port %q: %w", s, err)
		}
	}
	host, number, err := net.SplitHostPort(hostport)
	if err == nil {
		var n uint64
		n, err = strconv.ParseUint(number, 10, 16)
		port = uint16(n)
	}
	if err != nil || port == 0 {
		return "", 0, 0, fmt.Errorf("port %q: write it as HOST:PORT or HOST:PORT/PROTO, with a port from 1 to 65535", s)
	}
	return host, port, proto, nil
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
	addr, err := netip.ParseAddr(host)
	var names []string
	for _, n := range s.Nodes {
		if err == nil && n.Addr == addr.Unmap() {
			return n, nil
		}
		names = append(names, fmt.Sprintf("%s (%s)", n.Name, n.Addr))
	}
	if more := len(names) - 20; more > 0 {
		names = append(names[:20], fmt.Sprintf("and %d more, see shoal nodes", more))
	}
	return model.Node{}, fmt.Errorf("%w: %q is no host of the cluster, which are %s; a service is traced by its name, without a port", api.ErrNotFound, host, strings.Join(names, ", "))
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
