package ingress

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"shoal/kernel/sockets"
	"shoal/model"
)

// watchEvery is how often it is looked whether somebody else has begun, or ceased, to
// listen on a published port. The kernel does not notify of that. What it is asked for
// are sockets that wait for clients, however many connections there are.
const watchEvery = time.Second

// Occupied signals when who listens on the published ports of this host has changed:
// then [Ingress.Admit] has other answers than before. It looks for as long as ctx
// lasts.
func (g *Ingress) Occupied(ctx context.Context) <-chan struct{} {
	changed := make(chan struct{}, 1)
	go func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if g.look() {
				select {
				case changed <- struct{}{}:
				default:
				}
			}
		}
	}()
	return changed
}

// look looks once, and tells whether anything has changed.
func (g *Ingress) look() bool {
	g.mu.Lock()
	published := g.published
	g.mu.Unlock()
	if len(published) == 0 && g.looked != nil {
		return false
	}
	protos := map[model.Protocol]bool{model.TCP: true} // for sshd
	for p := range published {
		protos[p.proto] = true
	}
	ls, err := sockets.Listeners(protos)
	if err != nil {
		g.log.Debug("look who listens on published ports", "error", err)
		return false
	}
	g.sawSSH(ls)
	ls = slices.DeleteFunc(ls, func(l sockets.Listener) bool {
		_, ok := published[port{l.Protocol, l.Addr.Port()}]
		return !ok
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen.update(ls)
}

// port is one of a protocol.
type port struct {
	proto  model.Protocol
	number uint16
}

// seen are the listeners on published ports, as they were looked at.
type seen struct {
	last      map[sockets.Listener]bool // in the last look
	confirmed map[sockets.Listener]bool
}

// update records what there is now, and tells whether what is confirmed has changed. A
// listener of TCP is confirmed at once. One of UDP is when it is there twice: a client
// of DNS has a socket that looks alike, at a port of chance, for a moment.
func (s *seen) update(ls []sockets.Listener) (changed bool) {
	now, confirmed := map[sockets.Listener]bool{}, map[sockets.Listener]bool{}
	for _, l := range ls {
		now[l] = true
		if l.Protocol != model.UDP || s.last[l] {
			confirmed[l] = true
		}
	}
	changed = !maps.Equal(confirmed, s.confirmed)
	s.last, s.confirmed = now, confirmed
	return changed
}

// sawSSH looks which of the listeners that it has not looked at is an sshd. Only a socket
// that root made can be one: every user may call a process sshd, or have sshd listen for
// him (ssh -R), and a port that an sshd was seen on is refused for as long as the agent
// runs.
func (g *Ingress) sawSSH(ls []sockets.Listener) {
	isRoots := func(l sockets.Listener) bool { return l.Protocol == model.TCP && l.UID == 0 }
	inodes := map[uint32]bool{}
	for _, l := range ls {
		if isRoots(l) {
			inodes[l.Inode] = true
		}
	}
	fresh := maps.Clone(inodes)
	maps.DeleteFunc(fresh, func(inode uint32, _ bool) bool { return g.looked[inode] })
	g.looked = inodes
	if len(fresh) == 0 || g.opts.Policy == nil {
		return
	}
	names := sockets.Processes(fresh)
	for _, l := range ls {
		if isRoots(l) && strings.HasPrefix(names[l.Inode], "sshd ") {
			g.opts.Policy.saw(l.Addr.Port())
		}
	}
}

// publishedPorts are the ports that a Snapshot has as published.
func publishedPorts(s *model.Snapshot) map[port]bool {
	ports := make(map[port]bool, len(s.Published))
	for _, c := range s.Published {
		ports[port{c.Protocol, c.Port}] = true
	}
	return ports
}
