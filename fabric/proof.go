package fabric

import (
	"net/netip"
	"time"

	"shoal/model"
)

// Many networks carry packets between the addresses of hosts only, though the
// hosts are on one link: clouds that check source and destination, switches with
// port security. So [Auto] takes host-gw to a peer only once packets have gone
// from an address of this host's subnet to one of the peer's over the link, and
// back. Those addresses ([model.Node].Probe) are the hosts' own, and each
// answers as it answers any ping: the peer's agent has no part in it. As what is
// tried is a way there and back, both hosts come to the same choice; until
// they do, each takes packets of the other whichever way they come.
//
// A second ping, to the peer's own address, tells a link that drops what
// containers send from a peer that is down, of which nothing follows.

// proof is what is known of the link to one peer.
type proof struct {
	peer model.Node
	link string

	good   bool // what containers send arrives
	judged bool // this run has found out
	alone  bool // at the last try the peer answered on its own address, and not on the other

	dead bool // its agent is not heard: nothing follows from what does not arrive

	streak int           // outcomes in a row that speak against good
	wait   time.Duration // between tries of a link that is not good
	hold   time.Duration // how long the last change from good was kept
	since  time.Time     // when it became good
	next   time.Time     // when to try again
}

// How often, and how many outcomes in a row change a choice. A link that was
// left is not looked at for a while, each time twice as long as the time before,
// unless it was good for an hour: it never flaps.
const (
	firstTries   = 3                      // that fail, until a choice is told
	provenAfter  = 3                      // successes
	blockedAfter = 5                      // failures
	soon         = 100 * time.Millisecond // between the tries that decide
	lookAgain    = 10 * time.Second       // while all is well
	firstWait    = time.Second            // to the next try of a link that is not good, and
	lastWait     = time.Minute            // at most
	downWait     = 10 * time.Second       // at most, where the peer answers nothing
	firstHold    = 30 * time.Second       // before the first try of a link that was left
	lastHold     = time.Hour
	longGood     = time.Hour
)

// outcome is how a try ended.
type outcome struct {
	between bool // the peer answered from subnet to subnet
	host    bool // it answered on its own address
}

// observe takes in the outcome of a try, and tells whether it changes what is to
// be done or told.
func (p *proof) observe(o outcome, now time.Time) (changed bool) {
	was, alone := *p, o.host && !o.between
	p.alone = alone
	switch {
	case o.between && p.good:
		p.streak, p.judged, p.next = 0, true, now.Add(lookAgain)
	case o.between:
		p.streak++
		p.next = now.Add(soon)
		if p.streak >= provenAfter {
			p.good, p.judged, p.streak, p.next, p.since = true, true, 0, now.Add(lookAgain), now
		}
	case p.good && !o.host: // it is down, or starts
		p.next = now.Add(lookAgain)
	case p.good:
		p.streak++
		p.next = now.Add(soon)
		if p.streak >= blockedAfter {
			p.good, p.judged, p.streak, p.wait = false, true, 0, 0
			if now.Sub(p.since) > longGood {
				p.hold = 0
			}
			p.hold = min(max(2*p.hold, firstHold), lastHold)
			p.next = now.Add(p.hold)
		}
	default:
		p.streak = 0
		p.wait = min(max(2*p.wait, firstWait), lastWait)
		if !o.host {
			p.wait = min(p.wait, downWait)
		}
		p.judged = p.judged || p.wait >= firstWait<<(firstTries-1)
		p.next = now.Add(p.wait)
	}
	return p.good != was.good || p.judged != was.judged || !p.good && p.alone != was.alone
}

// proven tells whether host-gw is used to a peer. Of one that was not known yet
// the choice is what the kernel has from a former run.
func (f *Fabric) proven(have state) func(model.Node, string) bool {
	return func(peer model.Node, link string) bool {
		p := f.proofs[peer.Name]
		if p == nil || p.link != link || p.peer.Addr != peer.Addr || p.peer.Subnet != peer.Subnet || p.peer.Probe != peer.Probe {
			p = &proof{peer: peer, link: link, good: have.routes[peer.Subnet.Masked()] == route{peer.Addr, link}}
			f.proofs[peer.Name] = p
			wake(f.waken)
		}
		return p.good
	}
}

// noteAlive takes in which hosts live. A link to one that is back is tried at
// once.
func (f *Fabric) noteAlive(nodes []model.Node) {
	for _, n := range nodes {
		p := f.proofs[n.Name]
		if p == nil {
			continue
		}
		if p.dead && n.Alive {
			p.wait, p.next = 0, time.Time{}
			wake(f.waken)
		}
		p.dead = !n.Alive
	}
}

// keepProofs forgets peers whose links are not probed any more.
func (f *Fabric) keepProofs(self model.Node, paths []path) {
	probed := map[string]bool{}
	for i := range paths {
		if paths[i].probed(self) {
			probed[paths[i].peer.Name] = true
		}
	}
	for name := range f.proofs {
		if !probed[name] {
			delete(f.proofs, name)
		}
	}
}

// blocked are the notices of links that drop what containers send. Of a peer
// that is dead nothing follows.
func (f *Fabric) blocked(snap *model.Snapshot) (ps []model.Problem) {
	for _, n := range snap.Nodes {
		p := f.proofs[n.Name]
		if p == nil || p.good || !p.judged || !n.Alive {
			continue
		}
		why := "the link to host " + n.Name + " drops what containers send, so it goes through vxlan: host-gw is faster, and needs a network that lets pass what is not from or to a host's own address " +
			"(AWS: no source/destination check; OpenStack: the subnet among the port's allowed address pairs). It is tried again by itself; --backend vxlan, on all hosts, is the choice without trying"
		if !p.alone {
			why = "host " + n.Name + " does not answer a ping over the link, so that it is not known whether the link carries what containers send, and it goes through vxlan: " +
				"let ICMP echo pass between the hosts for host-gw; --backend vxlan, on all hosts, is the choice without trying"
		}
		ps = append(ps, model.Problem{Node: snap.Self.Name, Code: model.HostGWBlocked, Kind: "node", Object: n.Name, Reason: why, Notice: true})
	}
	return ps
}

// Ways are the transports by which other hosts are reached, by the hosts' names.
func (f *Fabric) Ways() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	ways := map[string]string{}
	for _, p := range f.paths {
		ways[p.peer.Name] = p.by.Name()
	}
	return ways
}

// due are the proofs to be tried now, and when the next one is.
func (f *Fabric) due(now time.Time) (self model.Node, due []*proof, next time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.proofs {
		if !now.Before(p.next) {
			due = append(due, p)
		} else if next.IsZero() || p.next.Before(next) {
			next = p.next
		}
	}
	return f.last.self, due, next
}

// learn takes in how tries ended.
func (f *Fabric) learn(due []*proof, answered func(netip.Addr) bool, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range due {
		was := p.good
		o := outcome{between: answered(p.peer.Probe), host: answered(p.peer.Addr) && !p.dead}
		if f.proofs[p.peer.Name] != p || !p.observe(o, now) {
			continue
		}
		if p.good != was {
			f.log.Info("another way to a host's containers", "host", p.peer.Name, "host-gw", p.good, "link", p.link)
		}
		wake(f.proved)
	}
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
