package cluster

import (
	"testing"
	"time"
)

func TestASilentHostIsToldOfOnceAndByFew(t *testing.T) {
	now := time.Now()
	silent := func(rounds int) func(*Liveness, *peer) {
		return func(_ *Liveness, p *peer) { p.detector.silent = rounds }
	}
	for _, tt := range []struct {
		name   string
		peers  int
		change func(*Liveness, *peer)
		want   bool
	}{
		{"after the first silent round", intervalPeers + 1, silent(1), true},
		{"not among few: each asks often itself", intervalPeers, silent(1), false},
		{"it answers", intervalPeers + 1, silent(0), false},
		{"it was told of after the first round", intervalPeers + 1, silent(2), false},
		{"it is dead already", intervalPeers + 1, func(_ *Liveness, p *peer) { p.detector.silent, p.detector.alive = 1, false }, false},
		{"another one told of it", intervalPeers + 1, func(_ *Liveness, p *peer) { p.detector.silent, p.called = 1, now.Add(-silentPause/2) }, false},
		{"another one told of it long ago", intervalPeers + 1, func(_ *Liveness, p *peer) { p.detector.silent, p.called = 1, now.Add(-silentPause) }, true},
		{"this host told of many", intervalPeers + 1, func(l *Liveness, p *peer) {
			p.detector.silent, l.called, l.calledSince = 1, mostSilent, now.Add(-time.Second/2)
		}, false},
		{"this host told of many a second ago", intervalPeers + 1, func(l *Liveness, p *peer) {
			p.detector.silent, l.called, l.calledSince = 1, mostSilent, now.Add(-time.Second)
		}, true},
	} {
		l := manyPeers(tt.peers, now)
		p := l.peers["7"]
		tt.change(l, p)
		if got := l.callsSilent(p, now); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
		if tt.want && l.callsSilent(p, now.Add(silentPause/2)) {
			t.Errorf("%s: it is told of again soon", tt.name)
		}
	}
}

func TestAHostThatIsCalledSilentIsAskedSoon(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name   string
		change func(*peer)
		m      silentMessage
		want   bool
	}{
		{"it was well", func(*peer) {}, silentMessage{Node: "1", Of: "7"}, true},
		{"by a stranger", func(*peer) {}, silentMessage{Node: "x", Of: "7"}, false},
		{"another host is", func(*peer) {}, silentMessage{Node: "1", Of: "8"}, false},
		{"one that is not known is", func(*peer) {}, silentMessage{Node: "1", Of: "x"}, false},
		{"a second time", func(p *peer) { p.called = now.Add(-silentPause / 2) }, silentMessage{Node: "1", Of: "7"}, false},
		{"it is asked often already", func(p *peer) { p.detector.silent = 1 }, silentMessage{Node: "1", Of: "7"}, false},
		{"it is dead already", func(p *peer) { p.detector.alive = false }, silentMessage{Node: "1", Of: "7"}, false},
	} {
		l := manyPeers(intervalPeers+1, now)
		p := l.peers["7"]
		tt.change(p)
		silent := p.detector.silent
		l.receivedSilent(tt.m, now)
		if got := len(p.hurry) > 0; got != tt.want {
			t.Errorf("%s: asked soon: %t", tt.name, got)
		}
		if p.detector.silent != silent || p.detector.gone {
			t.Errorf("%s: what another host says counts for a verdict", tt.name)
		}
	}
}

func TestHostsThatWereAllToldDoNotAskAtOnce(t *testing.T) {
	few, many := manyPeers(intervalPeers, time.Now()), manyPeers(intervalPeers+1, time.Now())
	waits := map[time.Duration]bool{}
	for range 100 {
		if few.soon() != 0 {
			t.Error("of few, one waits")
		}
		w := many.soon()
		if w < 0 || w >= soonSpread {
			t.Errorf("one waits %s", w)
		}
		waits[w] = true
	}
	if len(waits) < 50 {
		t.Errorf("of 100, many wait for the same time: there are %d", len(waits))
	}
}

func TestSilenceIsToldApartFromOtherMessages(t *testing.T) {
	m := silentMessage{1, "a", whySilent, "b"}
	if got, ok := decodeSilent(encode(m)); !ok || got != m {
		t.Errorf("it comes back as %+v, %t", got, ok)
	}
	for _, s := range []string{"silent", string(encodeGoodbye("a")), `{"v":2,"node":"a","why":"silent","of":"b"}`,
		string(encode(generationMessage{Version: 1, Node: "a", Why: whyAsk}))} {
		if _, ok := decodeSilent([]byte(s)); ok {
			t.Errorf("%q is taken for one", s)
		}
	}
	if _, ok := decodeGoodbye(encode(m)); ok {
		t.Error("it is taken for a goodbye")
	}
	if _, ok := decodeGeneration(encode(m)); ok {
		t.Error("it is taken for a generation")
	}
}
