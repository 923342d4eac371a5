package cluster

import (
	"encoding/json"
	"math/rand/v2"
	"time"
)

// In a cluster of more than intervalPeers hosts each host asks each other seldom, but
// among them somebody asks a host every probeInterval/intervalPeers. So a host that finds
// another one silent tells all the others, which ask for themselves, at once. What it says
// makes them look sooner and is never a verdict; it does not even lessen how many silent rounds
// that takes. Until gossip itself reports a death it is later: by memberlist's probes,
// each of which asks one host of all at random, and by the time in which a suspect may
// object, which grows with the hosts.

// silentMessage says that a host does not answer, as JSON, by UDP to each of the others.
type silentMessage struct {
	Version int    `json:"v"` // 1
	Node    string `json:"node"`
	Why     string `json:"why"` // whySilent
	Of      string `json:"of"`  // the host that is silent
}

const (
	whySilent = "silent"

	// silentPause is how long a host that was called silent is not called so again, or
	// asked sooner for it.
	silentPause = time.Second
	// mostSilent is how many hosts one host calls silent in a second. Where many are, others
	// tell of the rest; and one that hears nobody is cut off itself.
	mostSilent = 5
	// soonSpread is the time over which hosts ask that were all told at once.
	soonSpread = 200 * time.Millisecond
)

func decodeSilent(b []byte) (m silentMessage, ok bool) {
	err := json.Unmarshal(b, &m)
	return m, err == nil && m.Version == 1 && m.Why == whySilent
}

// crowded tells whether there are so many peers that each is asked less often than every
// probeInterval. The caller holds l.mu.
func (l *Liveness) crowded() bool { return len(l.peers) > intervalPeers }

// callsSilent tells whether the others are to be told that a peer is silent, and notes
// that they are. The caller holds l.mu.
func (l *Liveness) callsSilent(p *peer, now time.Time) bool {
	if !l.crowded() || !p.detector.alive || p.detector.silent != 1 || now.Sub(p.called) < silentPause {
		return false
	}
	if now.Sub(l.calledSince) >= time.Second {
		l.calledSince, l.called = now, 0
	}
	if l.called >= mostSilent {
		return false
	}
	l.called++
	p.called = now
	return true
}

// receivedSilent has a host asked soon that another one calls silent.
func (l *Liveness) receivedSilent(m silentMessage, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.peers[m.Of]
	if p == nil || l.peers[m.Node] == nil || now.Sub(p.called) < silentPause {
		return
	}
	p.called = now
	if p.detector.alive && p.detector.silent == 0 { // else it is asked often already
		p.askSoon()
	}
}

// askSoon has the peer asked before its time.
func (p *peer) askSoon() {
	select {
	case p.hurry <- struct{}{}:
	default:
	}
}

// soon is how long to wait before a peer is asked that all hosts may have been told to ask.
func (l *Liveness) soon() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.crowded() {
		return 0
	}
	return rand.N(soonSpread)
}
