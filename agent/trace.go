package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"shoal/model"
)

// A trace is put together of what several agents read from their own kernels
// (hops.go). The host where the packet meets a balancer tells the way to there,
// and which tasks may be chosen: for a name that is the sender's own host, for a
// published port the one that is named. The hosts of those tasks tell the rest.

// What bounds a trace.
const (
	maxTraced    = 300             // characters of what is traced, and of who sends
	maxFollowed  = 64              // tasks that are followed to their hosts
	traceTimeout = 5 * time.Second // for another host's part
)

// trace follows a packet from a container, an address or this host ("") to a
// service's name, or to a published port, written HOST:PORT[/PROTO] or :PORT.
func (a *Agent) trace(ctx context.Context, from, to string) (*Explanation, error) {
	if len(from) > maxTraced || len(to) > maxTraced {
		return nil, fmt.Errorf("trace: names are of %d characters at most", maxTraced)
	}
	s, err := a.snapshot()
	if err != nil {
		return nil, err
	}
	what, err := parseTarget(to)
	if err != nil {
		return nil, err
	}
	client, err := findSender(s, from)
	if errors.Is(err, errNotFound) {
		client, err = a.findSenderElsewhere(ctx, s, from)
	}
	if err != nil {
		return nil, err
	}
	if !client.addr.Is4() {
		return nil, fmt.Errorf("trace from %s: the mesh carries IPv4 only", from)
	}
	e := &Explanation{What: to, OK: true, node: s.Self.Name}
	first, q, entry := s.Self, question{name: what.name, from: client.addr}, ""
	if what.name == "" {
		if first, err = findHost(s, what.host); err != nil {
			return nil, err
		}
		if isLoopback(what.host) && (client.container || client.node != s.Self.Name) {
			return nil, fmt.Errorf("%s is where %s itself runs, not a host: write HOST:PORT", what.host, client.who)
		}
		entry = first.Name
		q = question{port: what.port, proto: what.proto, from: client.seenBy(s, first)}
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

	p, err := a.ask(ctx, s, first, q)
	if err != nil && first.Name == s.Self.Name {
		return nil, err
	}
	e.adopt(first, p, err)
	a.followTasks(ctx, e, s, p.Next, entry)
	return e, nil
}

// followTasks asks the hosts of tasks for the ends of the ways there, side by
// side. The packet leaves the sandbox of the host entry; "": none.
func (a *Agent) followTasks(ctx context.Context, e *Explanation, s *model.Snapshot, tasks []hop, entry string) {
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
		part part
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
		asked.Go(func() { an.part, an.err = a.ask(ctx, s, n, question{tasks: on[name], entry: entry}) })
	}
	asked.Wait()
	for _, an := range all {
		e.adopt(an.from, an.part, an.err)
	}
}

// ask has a host tell its part of a trace, by its agent.
func (a *Agent) ask(ctx context.Context, s *model.Snapshot, n model.Node, q question) (part, error) {
	if n.Name == s.Self.Name {
		return a.part(ctx, q, false)
	}
	ctx, cancel := context.WithTimeout(ctx, traceTimeout)
	defer cancel()
	p, err := a.member.part(ctx, n.Addr, q)
	for i := range p.Steps {
		p.Steps[i].What, p.Steps[i].Evidence = printable(p.Steps[i].What), printable(p.Steps[i].Evidence)
	}
	return p, err
}

// adopt adds the steps seen on a host, or that it did not tell them.
func (e *Explanation) adopt(n model.Node, p part, err error) {
	if away := new(url.Error); errors.As(err, &away) {
		e.step("agent", false, "the agent of host %s does not answer (%s), so whether a packet gets through there is not known: see that it runs, and shoal nodes", n.Name, away.Err)
	} else if err != nil {
		e.step("agent", false, "the agent of host %s cannot tell what a packet meets there: %s", n.Name, printable(err.Error()))
	}
	for _, s := range p.Steps {
		s.Node = n.Name
		e.add(s)
	}
}

// printable takes out what a terminal would not show, but act on.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
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
	return model.Node{}, fmt.Errorf("%w: %q is no host of the cluster, which are %s; a service is traced by its name, without a port", errNotFound, host, strings.Join(names, ", "))
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

// sender is who sends a packet.
type sender struct {
	who       string
	addr      netip.Addr
	node      string // the host it runs on; "": none
	container bool
}

func (c sender) String() string {
	if c.who == c.addr.String() {
		return c.who
	}
	return fmt.Sprintf("%s, %s", c.who, c.addr)
}

// findSender finds it by a container's name, ID or address, or by any address;
// "" is a process of this host.
func findSender(s *model.Snapshot, from string) (sender, error) {
	if from == "" || isLoopback(from) {
		return sender{who: "a process of this host", addr: s.Self.Addr, node: s.Self.Name}, nil
	}
	if addr, err := netip.ParseAddr(from); err == nil {
		return senderAt(s, addr.Unmap().WithZone("")), nil
	}
	found := findContainers(s, from)
	switch {
	case len(found) == 0:
		return sender{}, fmt.Errorf("%w: no container is called %q", errNotFound, from)
	case len(found) > 1:
		var which []string
		for _, c := range found {
			which = append(which, fmt.Sprintf("%.12s on %s", c.ID, c.Node))
		}
		return sender{}, fmt.Errorf("%d containers are called %q: give the ID, one of %s", len(found), from, strings.Join(which, ", "))
	case len(found[0].Addrs) == 0:
		return sender{}, fmt.Errorf("container %s has no address of its own; if it is on its host's network, it sends from %s's", from, found[0].Node)
	}
	return containerSender(s, found[0], found[0].Addrs[0]), nil
}

func containerSender(s *model.Snapshot, c *model.Container, addr netip.Addr) sender {
	who := c.Name
	if c.Node != s.Self.Name {
		who += " on " + c.Node
	}
	return sender{who: who, addr: addr, node: c.Node, container: true}
}

// senderAt is who has an address. One of a network that is each host's own means
// a container of this host.
func senderAt(s *model.Snapshot, addr netip.Addr) sender {
	if addr == s.Self.Addr {
		return sender{who: "a process of this host", addr: addr, node: s.Self.Name}
	}
	for _, n := range s.Nodes {
		if n.Addr == addr {
			return sender{who: "a process of host " + n.Name, addr: addr, node: n.Name}
		}
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		n, _ := nodeOf(s, c.Node)
		if slices.Contains(c.Addrs, addr) && (c.Node == s.Self.Name || n.Subnet.Contains(addr)) {
			return containerSender(s, c, addr)
		}
	}
	for _, n := range s.Nodes {
		if n.Subnet.Contains(addr) {
			return containerSender(s, &model.Container{Name: addr.String(), Node: n.Name}, addr)
		}
	}
	return sender{who: addr.String(), addr: addr}
}

// findSenderElsewhere has every other host look for a container by its name or
// ID: one that has nothing to do with the mesh is known to its own host only.
func (a *Agent) findSenderElsewhere(ctx context.Context, s *model.Snapshot, from string) (sender, error) {
	var mu sync.Mutex
	var found []sender
	var silent []string
	var asked sync.WaitGroup
	for _, n := range s.Nodes {
		if n.Name == s.Self.Name {
			continue
		}
		asked.Go(func() {
			p, err := a.ask(ctx, s, n, question{sender: from})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, n.Name)
			}
			for _, h := range p.Next {
				found = append(found, containerSender(s, &model.Container{Name: from, Node: n.Name}, h.Addr))
			}
		})
	}
	asked.Wait()
	return oneSender(from, found, silent)
}

// oneSender is the only one that was found. Hosts that are silent might have
// another.
func oneSender(from string, found []sender, silent []string) (sender, error) {
	if len(found) == 1 {
		return found[0], nil
	}
	var on []string
	for _, c := range found {
		on = append(on, fmt.Sprintf("%s of %s", c.addr, c.node))
	}
	slices.Sort(on)
	slices.Sort(silent)
	if len(found) > 1 {
		return sender{}, fmt.Errorf("%d containers are called %q: give the address, one of %s", len(found), from, strings.Join(on, ", "))
	}
	unasked := ""
	if len(silent) > 0 {
		unasked = ", unless on " + strings.Join(silent, ", ") + ", which did not answer"
	}
	return sender{}, fmt.Errorf("%w: no container with an address is called %q%s", errNotFound, from, unasked)
}

// seenBy is the address by which a host sees the sender's packets to its own:
// Docker masquerades what a container sends to another host.
func (c sender) seenBy(s *model.Snapshot, host model.Node) netip.Addr {
	if n, ok := nodeOf(s, c.node); ok && n.Name != host.Name {
		return n.Addr
	}
	return c.addr
}
