package dnsd

import (
	"net/netip"
	"sync"
)

// limiter shares something of which there is only so much, first among networks,
// then among the clients of each. While there is enough, a client may have as
// much as each says. When all is taken, who has more than another gives way to
// him: the network that has most loses one of the client that has most there. So
// one client cannot starve others, and one network, with however many clients or
// forged addresses, not the other networks.
type limiter struct {
	max, each int

	mu       sync.Mutex
	total    int
	networks map[netip.Prefix]*network
}

type network struct {
	total   int
	clients map[netip.Addr][]*share // the oldest first
}

// share is one of those that there are, with a client.
type share struct {
	revoke func() // has the client stop
}

func newLimiter(max, each int) *limiter {
	return &limiter{max: max, each: each, networks: map[netip.Prefix]*network{}}
}

// acquire takes one for a client, to be given back by release, or reports that
// there is none for it. Where the one is to be had back before, revoke is called,
// once, by another goroutine; release is to be called all the same.
func (l *limiter) acquire(client netip.Addr, of netip.Prefix, revoke func()) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.networks[of]
	has, networkHas := 0, 0
	if n != nil {
		has, networkHas = len(n.clients[client]), n.total
	}
	if has >= l.each || l.total >= l.max && !l.makeRoom(of, networkHas, has) {
		return nil, false
	}
	if n = l.networks[of]; n == nil {
		n = &network{clients: map[netip.Addr][]*share{}}
		l.networks[of] = n
	}
	s := &share{revoke}
	n.clients[client] = append(n.clients[client], s)
	n.total++
	l.total++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.remove(of, client, s)
	}, true
}

// makeRoom takes one from who has most, if that is more than who wants it has.
func (l *limiter) makeRoom(of netip.Prefix, networkHas, has int) bool {
	from, most := of, networkHas+1
	for p, n := range l.networks {
		if n.total > most {
			from, most = p, n.total
		}
	}
	most = 0
	if from == of {
		most = has + 1
	}
	var who netip.Addr
	for c, shares := range l.clients(from) {
		if len(shares) > most {
			who, most = c, len(shares)
		}
	}
	if !who.IsValid() {
		return false
	}
	s := l.networks[from].clients[who][0]
	l.remove(from, who, s)
	go s.revoke()
	return true
}

func (l *limiter) clients(of netip.Prefix) map[netip.Addr][]*share {
	if n := l.networks[of]; n != nil {
		return n.clients
	}
	return nil
}

// remove forgets a share, if it was not taken back already.
func (l *limiter) remove(of netip.Prefix, client netip.Addr, s *share) {
	shares := l.clients(of)[client]
	for i := range shares {
		if shares[i] != s {
			continue
		}
		n := l.networks[of]
		if shares = append(shares[:i], shares[i+1:]...); len(shares) > 0 {
			n.clients[client] = shares
		} else {
			delete(n.clients, client)
		}
		l.total--
		if n.total--; n.total == 0 {
			delete(l.networks, of)
		}
		return
	}
}
