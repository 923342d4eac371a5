package diagnose

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"shoal/api"
	"shoal/model"
)

// sender is who sends a packet.
type sender struct {
	who       string
	addr      netip.Addr
	node      string // the host it runs on; "": none
	container bool
	id        string // of a container; "": not known
}

func (c sender) String() string {
	if c.who == c.addr.String() {
		return c.who
	}
	return fmt.Sprintf("%s, %s", c.who, c.addr)
}

// findSender finds it by a container's name, ID or address, by a host's name, or by any
// address; "" is a process of this host.
func findSender(s *model.Snapshot, from string) (sender, error) {
	if from == "" || isLoopback(from) {
		return sender{who: "a process of this host", addr: s.Self.Addr, node: s.Self.Name}, nil
	}
	if addr, err := netip.ParseAddr(from); err == nil {
		return senderAt(s, addr.Unmap().WithZone("")), nil
	}
	found := findContainers(s, from)
	n, isHost := nodeOf(s, from)
	switch {
	case len(found) == 0 && isHost:
		return senderAt(s, n.Addr), nil
	case len(found) == 0:
		return sender{}, fmt.Errorf("%w: no container is called %q", api.ErrNotFound, from)
	case len(found) > 1:
		var which []string
		for _, c := range found {
			which = append(which, fmt.Sprintf("%.12s on %s", c.ID, c.Node))
		}
		return sender{}, fmt.Errorf("%d containers are called %q: give the ID, one of %s", len(found), from, strings.Join(which, ", "))
	case len(found[0].Addrs) == 0:
		n, _ := nodeOf(s, found[0].Node)
		return containerSender(s, found[0], n.Addr), nil // on its host's network, or without any
	}
	return containerSender(s, found[0], found[0].Addrs[0]), nil
}

func containerSender(s *model.Snapshot, c *model.Container, addr netip.Addr) sender {
	who := c.Name
	if c.Node != s.Self.Name {
		who += " on " + c.Node
	}
	return sender{who: who, addr: addr, node: c.Node, container: true, id: c.ID}
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
	for c := range s.Containers.All() {
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
func (in *Inspector) findSenderElsewhere(ctx context.Context, s *model.Snapshot, from string) (sender, error) {
	var mu sync.Mutex
	var found []sender
	var silent []string
	var asked sync.WaitGroup
	for _, n := range s.Nodes {
		if n.Name == s.Self.Name {
			continue
		}
		asked.Go(func() {
			p, err := in.ask(ctx, s, n, Question{sender: from})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, n.Name)
			}
			for _, h := range p.Next {
				found = append(found, containerSender(s, &model.Container{ID: h.ID, Name: from, Node: n.Name}, h.Addr))
			}
		})
	}
	asked.Wait()
	return oneSender(s, from, found, silent)
}

// oneSender is the only one that was found. Hosts that are silent might have
// another.
func oneSender(s *model.Snapshot, from string, found []sender, silent []string) (sender, error) {
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
	return sender{}, wrong("no container with an address, and no host, is called %q%s: %s", from, unasked, hostsText(s))
}

// seenBy is the address by which a host sees the sender's packets to its own:
// Docker masquerades what a container sends to another host.
func (c sender) seenBy(s *model.Snapshot, host model.Node) netip.Addr {
	if n, ok := nodeOf(s, c.node); ok && n.Name != host.Name {
		return n.Addr
	}
	return c.addr
}
