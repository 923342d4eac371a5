package fabric

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/fabric/transport"
	"shoal/model"
)

var (
	works   = outcome{between: true, host: true}
	blocked = outcome{host: true}
	down    = outcome{}
)

// run has a proof try for so long, with the outcome that the link then has. It returns when the choice changed, in
// order, and how many tries there were.
func (p *proof) run(from, for_ time.Duration, link func(at time.Duration) outcome) (changes []time.Duration, tries int) {
	begun := time.Time{}
	if p.next.IsZero() {
		p.next = begun.Add(from)
	}
	for at := p.next.Sub(begun); at <= from+for_; at = p.next.Sub(begun) {
		was := p.good
		p.observe(link(at), begun.Add(at))
		tries++
		if p.good != was {
			changes = append(changes, at)
		}
	}
	return changes, tries
}

func always(o outcome) func(time.Duration) outcome {
	return func(time.Duration) outcome { return o }
}

func TestALinkIsProvenBeforeItIsUsedAndLeftWhenItDrops(t *testing.T) {
	for _, tt := range []struct {
		name   string
		good   bool // to begin with: a former run's choice
		link   outcome
		within time.Duration // until the choice changes; 0: it does not, in an hour
		judged bool
		tries  int // at most, in that hour
	}{
		{"it works", false, works, time.Second, true, 370},
		{"it drops what containers send", false, blocked, 0, true, 70},
		{"the peer is down", false, down, 0, true, 370},
		{"a former run used it, and it works", true, works, 0, true, 361},
		{"a former run used it, and it drops", true, blocked, time.Second, true, 75},
		{"a former run used it, and the peer is down", true, down, 0, false, 361},
	} {
		p := &proof{good: tt.good}
		changes, tries := p.run(0, time.Hour, always(tt.link))
		if len(changes) != map[bool]int{true: 1}[tt.within > 0] || len(changes) > 0 && changes[0] > tt.within {
			t.Errorf("%s: the choice changes at %v", tt.name, changes)
		}
		if p.judged != tt.judged || tries > tt.tries {
			t.Errorf("%s: judged %v, %d tries in an hour", tt.name, p.judged, tries)
		}
	}
}

func TestALinkThatLosesSomeIsKept(t *testing.T) {
	p := &proof{}
	n := 0
	lossy := func(time.Duration) outcome {
		if n++; n > 10 && n%3 > 0 {
			return blocked
		}
		return works
	}
	if changes, _ := p.run(0, time.Hour, lossy); len(changes) != 1 {
		t.Errorf("with two of three probes lost it changes at %v", changes)
	}
}

func TestAChoiceDoesNotFlap(t *testing.T) {
	p := &proof{}
	alternating := func(at time.Duration) outcome { // the network's owner cannot decide
		if int(at/(20*time.Second))%2 == 0 {
			return works
		}
		return blocked
	}
	changes, _ := p.run(0, 24*time.Hour, alternating)
	if len(changes) < 2 || len(changes) > 100 {
		t.Errorf("%d changes in a day", len(changes))
	}
	late := 0
	for _, at := range changes {
		if at > 23*time.Hour {
			late++
		}
	}
	if late > 4 {
		t.Errorf("%d changes in the last hour", late)
	}
}

func TestABlockedLinkIsTriedAgain(t *testing.T) {
	p := &proof{}
	mended := 30 * time.Minute
	changes, _ := p.run(0, 2*time.Hour, func(at time.Duration) outcome {
		if at < mended {
			return blocked
		}
		return works
	})
	if len(changes) != 1 || changes[0] > mended+lastWait+time.Second {
		t.Errorf("mended after %v, and used from %v on", mended, changes)
	}
}

func probed(n model.Node) model.Node {
	n.Probe = model.PlanOf(n.Subnet).Probe
	return n
}

func TestAutoTakesTheTunnelUntilTheLinkIsProven(t *testing.T) {
	self, peer, far := probed(hostA), probed(hostB), probed(hostC)
	for _, tt := range []struct {
		name   string
		peer   model.Node
		proven bool
		want   string // the way to the peer's containers
		direct bool   // there is a route over the link to its probe's address
	}{
		{"not proven", peer, false, "vxlan shoal.vxlan", true},
		{"proven", peer, true, "host-gw eth0", true},
		{"an earlier version, which answers no probe", hostB, false, "host-gw eth0", false},
	} {
		in := inputs{self: self, nodes: []model.Node{self, tt.peer, far}, networks: []model.Network{mesh},
			proven: func(model.Node, string) bool { return tt.proven }}
		want, paths, failed := desired(options(t, Auto), in, []transport.Addr{eth0})
		if len(failed) > 0 || len(paths) != 2 {
			t.Fatalf("%s: %v", tt.name, failed)
		}
		if got := paths[0].by.Name() + " " + want.routes[tt.peer.Subnet].dev; got != tt.want {
			t.Errorf("%s: by %s, want %s", tt.name, got, tt.want)
		}
		if r, direct := want.routes[netip.PrefixFrom(peer.Probe, 32)]; direct != tt.direct || direct && r != (route{peer.Addr, "eth0"}) {
			t.Errorf("%s: route of the probe: %+v", tt.name, r)
		}
		if _, routed := want.routes[netip.PrefixFrom(far.Probe, 32)]; routed {
			t.Errorf("%s: a host behind a router is probed", tt.name)
		}
		var from []string
		for _, l := range between(options(t, Auto), in, paths).Links {
			if l.Net == tt.peer.Subnet {
				from = append(from, l.Device)
			}
		}
		if d := cmp.Diff([]string{"eth0", "shoal.vxlan"}, from); d != "" {
			t.Errorf("%s: its packets are taken from: %s", tt.name, d)
		}
	}
}

func TestAFormerRunsChoiceIsKept(t *testing.T) {
	f, err := New(Options{Backend: Auto, Prove: true})
	if err != nil {
		t.Fatal(err)
	}
	b := probed(hostB)
	have := newState()
	have.routes[b.Subnet] = route{b.Addr, "eth0"}
	if f.proven(newState())(b, "eth0") {
		t.Error("a link is used that nothing is known of")
	}
	moved := b
	moved.Addr = addr("10.1.0.9")
	if f.proven(have)(moved, "eth0") {
		t.Error("what was known of another address counts")
	}
	clear(f.proofs)
	if !f.proven(have)(b, "eth0") || !f.proven(newState())(b, "eth0") {
		t.Error("what a former run used is not used")
	}
}

// TestAHostThatRestartsChangesNothing: it answers pings before its agent has given it the address of its subnet.
func TestAHostThatRestartsChangesNothing(t *testing.T) {
	f, err := New(Options{Backend: Auto, Prove: true})
	if err != nil {
		t.Fatal(err)
	}
	b := probed(hostB)
	have := newState()
	have.routes[b.Subnet] = route{b.Addr, "eth0"}
	f.proven(have)(b, "eth0")
	p, now := f.proofs["b"], time.Now()
	try := func(times int) {
		for range times {
			now = now.Add(time.Minute)
			f.learn([]*proof{p}, func(a netip.Addr) bool { return a == b.Addr }, now)
		}
	}
	dead := b
	dead.Alive = false
	f.noteAlive([]model.Node{dead})
	if try(20); !p.good {
		t.Error("a dead host is reached by another way")
	}
	f.noteAlive([]model.Node{b})
	if _, due, _ := f.due(now); len(due) != 1 {
		t.Error("the link to a host that is back is not tried at once")
	}
	if try(20); p.good {
		t.Error("the link is used that drops")
	}
}

func TestABlockedLinkIsANoticeWhileThePeerLives(t *testing.T) {
	f, err := New(Options{Backend: Auto, Prove: true})
	if err != nil {
		t.Fatal(err)
	}
	b := probed(hostB)
	snap := &model.Snapshot{Self: hostA, Nodes: []model.Node{hostA, b}}
	f.proven(newState())(b, "eth0")
	if ps := f.blocked(snap); len(ps) > 0 {
		t.Errorf("before the first try: %+v", ps)
	}
	for now := time.Now(); !f.proofs["b"].judged; now = now.Add(time.Minute) {
		f.learn([]*proof{f.proofs["b"]}, func(a netip.Addr) bool { return a == b.Addr }, now)
	}
	select {
	case <-f.Proved():
	default:
		t.Error("nobody is told")
	}
	ps := f.blocked(snap)
	if len(ps) != 1 || ps[0].Code != model.HostGWBlocked || !ps[0].Notice || ps[0].Object != "b" || !strings.Contains(ps[0].Reason, "drops what containers send") {
		t.Errorf("problems: %+v", ps)
	}
	f.learn([]*proof{f.proofs["b"]}, func(netip.Addr) bool { return false }, time.Now())
	if ps := f.blocked(snap); len(ps) != 1 || !strings.Contains(ps[0].Reason, "does not answer a ping") {
		t.Errorf("problems: %+v", ps)
	}
	snap.Nodes[1].Alive = false
	if ps := f.blocked(snap); len(ps) > 0 {
		t.Errorf("of a dead host: %+v", ps)
	}
}
