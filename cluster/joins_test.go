package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// manyPeers is a Liveness that does no I/O, with so many peers that live, named 0, 1, ….
func manyPeers(n int, now time.Time) *Liveness {
	l := &Liveness{peers: map[string]*peer{}, met: map[string]netip.Addr{}, paced: newPace()}
	for i := range n {
		name := fmt.Sprint(i)
		l.peers[name] = &peer{name: name, hurry: make(chan struct{}, 1), detector: newFailureDetector(now, restartGrace)}
	}
	return l
}

// TestJoinsOfGossipAreFewAtATime: who has no place for another one leaves it to the next round. What would be joined has
// no gossip here, so that a join that is begun would panic in a goroutine.
func TestJoinsOfGossipAreFewAtATime(t *testing.T) {
	now, heard := time.Now(), false
	for _, tt := range []struct {
		name   string
		change func(*Liveness, *peer)
	}{
		{"as many as may be are under way", func(l *Liveness, _ *peer) { l.joins = maxJoins }},
		{"it is in gossip and alive", func(l *Liveness, p *peer) { l.met[p.name] = netip.MustParseAddr("192.0.2.1") }},
		{"it is being joined", func(_ *Liveness, p *peer) { p.joining = true }},
		{"it was tried a moment ago", func(_ *Liveness, p *peer) { p.joined = now }},
		{"it is alive, and so are others that were joined a moment ago", func(l *Liveness, _ *peer) { l.paced.AllowN(now, firstJoins) }},
		{"it is dead, but heard, and others were joined a moment ago", func(l *Liveness, p *peer) {
			l.paced.AllowN(now, firstJoins)
			p.detector.alive, heard = false, true
		}},
	} {
		l := manyPeers(maxJoins+1, now)
		p := l.peers["7"]
		tt.change(l, p)
		joins, joined := l.joins, p.joined
		l.meet(context.Background(), p, heard)
		if l.joins != joins || p.joined != joined {
			t.Errorf("%s: it is joined", tt.name)
		}
	}
}
