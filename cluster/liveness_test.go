package cluster

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// The bound that the project has set itself, for death and for return.
const bound = 3 * time.Second

func TestADeadHostIsKnownAndItsReturnToo(t *testing.T) {
	l := newLAN(t, 3)
	a, b, c := l.hosts["a"], l.hosts["b"], l.hosts["c"]
	for range 3 {
		died := time.Now()
		c.cable("down")
		t.Logf("death of c known to a after %s, to b after %s", a.waitFor("c", false, died, bound), b.waitFor("c", false, died, bound))
		if got := a.now("c").Reason; !strings.Contains(got, "nothing answers") {
			t.Errorf("a says of c: %s", got)
		}
		// The minority of one judges for itself.
		c.waitState("for both to be dead", bound, func(all []PeerState) bool { return !all[0].Alive && !all[1].Alive })
		back := time.Now()
		c.cable("up")
		t.Logf("return of c known to a after %s, to b after %s", a.waitFor("c", true, back, bound), b.waitFor("c", true, back, bound))
		c.waitState("for both to be back", bound, func(all []PeerState) bool { return all[0].Alive && all[1].Alive })
		c.wipe()
	}
}

func TestAPartitionOfTwoAndTwoHeals(t *testing.T) {
	l := newLAN(t, 4)
	cut := func(action string) {
		for _, pair := range []string{"ac", "ad", "bc", "bd"} {
			x, y := pair[:1], pair[1:]
			l.hosts[x].iptables(action, "INPUT", "-s", l.peers[y].String(), "-j", "DROP")
			l.hosts[y].iptables(action, "INPUT", "-s", l.peers[x].String(), "-j", "DROP")
		}
	}
	want := map[string][]string{"a": {"c", "d"}, "b": {"c", "d"}, "c": {"a", "b"}, "d": {"a", "b"}}
	check := func(what string, alive bool, since time.Time) {
		var longest time.Duration
		for name, others := range want {
			for range others {
				select {
				case e := <-l.hosts[name].events:
					if e.alive != alive || (e.node != others[0] && e.node != others[1]) {
						t.Fatalf("%s: %s alive: %t", name, e.node, e.alive)
					}
					longest = max(longest, e.at.Sub(since))
				case <-time.After(bound + 15*time.Second):
					t.Fatalf("%s: no news", name)
				}
			}
		}
		t.Logf("%s known to all after %s", what, longest)
		if most := bound + machine.since(since); longest > most {
			t.Errorf("%s known after %s, want %s at most", what, longest, most)
		}
	}
	parted := time.Now()
	cut("-A")
	check("partition", false, parted)
	// Longer than memberlist keeps the dead in mind.
	l.quiet(6*time.Second, "a", "b", "c", "d")
	healed := time.Now()
	cut("-D")
	check("healing", true, healed)
	l.quiet(2*time.Second, "a", "b", "c", "d")
	// Gossip is one again: only to those in it d says goodbye.
	l.hosts["d"].end(syscall.SIGTERM)
	for _, name := range []string{"a", "b", "c"} {
		l.hosts[name].waitState("to hear that d restarts", 2*time.Second, func(all []PeerState) bool {
			return strings.Contains(all[len(all)-1].Reason, "its agent restarts")
		})
	}
}

func TestAHostThatOneOtherCannotReachIsDeadToThatOneOnly(t *testing.T) {
	l := newLAN(t, 3)
	a, b := l.hosts["a"], l.hosts["b"]
	cut := time.Now()
	a.iptables("-A", "INPUT", "-s", l.peers["b"].String(), "-j", "DROP")
	a.waitFor("b", false, cut, bound)
	b.waitFor("a", false, cut, bound)
	l.quiet(2*time.Second, "a", "b", "c")
}

func TestAKilledAgentIsNoDeadHost(t *testing.T) {
	l := newLAN(t, 3)
	a, c := l.hosts["a"], l.hosts["c"]
	c.end(syscall.SIGKILL)
	l.quiet(bound, "a", "b")
	if got := a.now("c").Reason; !strings.Contains(got, "its agent does not answer") || !strings.Contains(got, "its host does") {
		t.Errorf("a says of c: %s", got)
	}
	died := time.Now()
	c.cable("down") // now the host
	t.Logf("death known after %s", a.waitFor("c", false, died, bound))
	c.cable("up")
	l.quiet(2*time.Second, "a") // its kernel is back, its tasks may be or not
	if got := a.now("c").Reason; !strings.Contains(got, "its agent has not said yet") {
		t.Errorf("a says of c: %s", got)
	}
	back := time.Now()
	c.start()
	t.Logf("return known after %s", a.waitFor("c", true, back, bound))
}

func TestARestartedAgentIsNotMissed(t *testing.T) {
	l := newLAN(t, 3)
	a, c := l.hosts["a"], l.hosts["c"]
	start := time.Now()
	c.end(syscall.SIGTERM)
	t.Logf("the goodbye took %s", time.Since(start))
	a.waitState("to hear that c restarts", 2*time.Second, func(all []PeerState) bool {
		return strings.Contains(all[1].Reason, "its agent restarts")
	})
	l.quiet(3*time.Second, "a", "b")
	c.start()
	a.waitState("to hear c again", bound, func(all []PeerState) bool { return strings.Contains(all[1].Reason, "its agent answered") })
	l.quiet(time.Second, "a", "b")
	c.wipe()
	died := time.Now()
	c.cable("down")
	t.Logf("death after that known after %s", a.waitFor("c", false, died, bound))
}

// wall lets pass what agents listen on and nothing else: no reset, no echo.
func (l *lan) wall() {
	for _, h := range l.hosts {
		h.iptables("-A", "INPUT", "-p", "icmp", "-j", "DROP")
		h.iptables("-A", "OUTPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP")
	}
}

func TestARestartBehindAFirewallHasItsGrace(t *testing.T) {
	l := newLAN(t, 3)
	c := l.hosts["c"]
	l.wall()
	c.end(syscall.SIGTERM)
	l.quiet(bound, "a", "b")
	c.start()
	l.quiet(2*time.Second, "a", "b")
}

func TestTheGraceOfARestartEnds(t *testing.T) {
	const grace = bound // longer than without it
	l := newLAN(t, 3, func(l *lan) { l.grace = grace })
	l.wall()
	start := time.Now()
	l.hosts["c"].end(syscall.SIGTERM)
	for _, name := range []string{"a", "b"} {
		if took := l.hosts[name].waitFor("c", false, start, grace+bound); took < grace {
			t.Errorf("%s: dead after %s already", name, took)
		}
	}
}

func TestAPauseIsNoDeath(t *testing.T) {
	l := newLAN(t, 3)
	c := l.hosts["c"]
	// Of one that gets too long, since the machine is busy, nothing is said.
	pause := func(begin, end func()) {
		for range 2 {
			start := time.Now()
			begin()
			<-time.After(800 * time.Millisecond)
			end()
			if took := time.Since(start); took > time.Second {
				t.Logf("a pause of %s", took)
				<-time.After(bound)
				for _, h := range l.hosts {
					h.wipe()
				}
			}
			l.quiet(700*time.Millisecond, "a", "b", "c")
		}
	}
	pause( // The agent is not scheduled.
		func() { c.cmd.Process.Signal(syscall.SIGSTOP) },
		func() { c.cmd.Process.Signal(syscall.SIGCONT) })
	pause( // The host is not.
		func() { c.iptables("-A", "INPUT", "-j", "DROP") },
		func() { c.iptables("-F", "INPUT") })
	// An agent that slept for long wakes up without a wrong idea of the others.
	c.cmd.Process.Signal(syscall.SIGSTOP)
	l.quiet(bound, "a", "b")
	c.cmd.Process.Signal(syscall.SIGCONT)
	l.quiet(2*time.Second, "a", "b", "c")
}

func TestALossyLinkIsNoDeath(t *testing.T) {
	l := newLAN(t, 3)
	for _, h := range l.hosts {
		h.iptables("-A", "INPUT", "-m", "statistic", "--mode", "random", "--probability", "0.1", "-j", "DROP")
	}
	l.quiet(8*time.Second, "a", "b", "c")
	died := time.Now()
	l.hosts["c"].cable("down")
	t.Logf("death over lossy links known after %s", l.hosts["a"].waitFor("c", false, died, bound))
}

func TestWithoutUDPTheRestIsEnough(t *testing.T) {
	l := newLAN(t, 2)
	for _, h := range l.hosts {
		h.iptables("-A", "INPUT", "-p", "udp", "-j", "DROP")
	}
	a, b := l.hosts["a"], l.hosts["b"]
	l.quiet(bound, "a", "b")
	died := time.Now()
	b.cable("down")
	a.waitFor("b", false, died, bound)
	back := time.Now()
	b.cable("up")
	t.Logf("return without UDP known after %s", a.waitFor("b", true, back, bound))
}

func TestAnAgentThatStartsJudgesBeforeItSpeaks(t *testing.T) {
	l := newLAN(t, 3)
	a, c := l.hosts["a"], l.hosts["c"]
	died := time.Now()
	c.cable("down")
	a.waitFor("c", false, died, bound)
	a.end(syscall.SIGKILL)
	start := time.Now()
	a.start()
	select {
	case <-a.judged:
	case <-time.After(bound + 15*time.Second):
		t.Fatal("not judged")
	}
	took := time.Since(start)
	t.Logf("all judged after %s", took)
	if most := bound + machine.since(start); took > most {
		t.Errorf("that is more than %s", most)
	}
	if a.now("c").Alive || !a.now("b").Alive {
		t.Errorf("b: %+v, c: %+v", a.now("b"), a.now("c"))
	}
}

func TestGossipWithAnotherKeyIsRefused(t *testing.T) {
	l := newLAN(t, 2)
	a, b := l.hosts["a"], l.hosts["b"]
	b.end(syscall.SIGKILL)
	a.waitState("for b's host", bound, func(all []PeerState) bool { return strings.Contains(all[0].Reason, "its host does") })
	l.dirs = identities(t, l.peers)
	b.start()
	l.quiet(2*time.Second, "a")
	if got := a.now("b"); !strings.Contains(got.Reason, "its agent does not answer") {
		t.Errorf("a says of b: %s", got.Reason)
	}
}
