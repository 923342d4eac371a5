package nft

import (
	"net/netip"
	"testing"
	"time"

	"shoal/lb"
	"shoal/model"
)

func TestTheNameOfAChainTellsAllAboutIt(t *testing.T) {
	for want, b := range map[string]balancer{
		"port-closed":                          closed(ofTCP),
		"published-closed":                     closed(ofPublished),
		"tcp-rr-3-lane-7":                      {form: ofTCP, scheduler: "rr", slots: 3, lane: 7},
		"udp-wrr-12":                           {form: ofUDP, scheduler: "wrr", slots: 12},
		"port-sh-251-affinity-60":              {form: ofPort, scheduler: "sh", slots: 251, affinity: time.Minute},
		"published-rr-2-lane-64-affinity-3600": {form: ofPublished, scheduler: "rr", slots: 2, lane: 64, affinity: time.Hour},
	} {
		if got := b.chain(); got != want {
			t.Errorf("%+v is called %s, want %s", b, got, want)
		}
		if got, ok := parseBalancer(want); !ok || got != b {
			t.Errorf("%s is read as %+v, %t", want, got, ok)
		}
	}
	for _, name := range []string{"", "vip", "vip-in", "from-2", "reply-2", "published", "nat-post", "peers", "tcp-rr-x", "tcp-rr-3-lane", "tcp-rr-3-way-1", "tcp-rr-03"} {
		if b, ok := parseBalancer(name); ok {
			t.Errorf("%s is read as %+v", name, b)
		}
	}
}

func TestNoChainOfRulesIsTakenForABalancer(t *testing.T) {
	w := &surroundings{base: &lb.Base{Peers: []lb.Peer{{Number: 2}}}, between: lb.Between{Own: netip.MustParsePrefix("10.244.1.0/24")},
		opts: lb.PlaneOptions{Pool: netip.MustParsePrefix("10.96.0.0/16")}}
	seen := map[string]bool{}
	for _, c := range w.chains() {
		if _, is := parseBalancer(c.name); is || seen[c.name] || len(c.name) > 31 {
			t.Errorf("chain %s", c.name)
		}
		seen[c.name] = true
	}
}

func TestALaneIsOneFrontendsOwnWhileThereAreAny(t *testing.T) {
	p := newPool()
	f := func(n int, scheduler string) *lb.Frontend {
		return &lb.Frontend{Key: lb.Key{VIP: netip.AddrFrom4([4]byte{10, 96, 0, byte(n)}), Protocol: model.TCP}, Scheduler: scheduler}
	}
	var first balancer
	for i := range lanes {
		b := p.pick(f(i, "rr"), 2, balancer{}, false)
		if b.lane != i+1 {
			t.Fatalf("frontend %d has lane %d", i, b.lane)
		}
		if p.use(b, 1); i == 0 {
			first = b
		}
	}
	if b := p.pick(f(100, "rr"), 2, balancer{}, false); b.lane != 0 {
		t.Errorf("one too many has lane %d", b.lane)
	}
	if b := p.pick(f(0, "rr"), 2, first, false); b != first {
		t.Errorf("one that has a lane is given %+v", b)
	}
	if b := p.pick(f(0, "rr"), 3, first, false); b.lane != 1 || b.slots != 3 {
		t.Errorf("with another task it is given %+v", b)
	}
	p.use(first, -1)
	if b := p.pick(f(100, "rr"), 2, balancer{}, false); b != first {
		t.Errorf("a lane that is free again is not used: %+v", b)
	}
	p.slots = fewSlots + 1
	if b := p.pick(f(100, "rr"), 3, balancer{}, false); b.lane != 0 {
		t.Errorf("a change makes lane %d among many slots", b.lane)
	}
	if b := p.pick(f(100, "rr"), 2, balancer{}, false); b != first {
		t.Errorf("among many slots a lane that nobody uses is not used: %+v", b)
	}
	if b := p.pick(f(0, "rr"), 3, balancer{lane: 7, form: ofTCP, scheduler: "rr", slots: 3}, false); b.lane != 7 {
		t.Errorf("among many slots one that has a lane is given %+v", b)
	}
	if b := p.pick(f(100, "rr"), 3, balancer{}, true); b.lane != 1 {
		t.Errorf("no lane is made where all is written anew: %+v", b)
	}
	if gone := p.unused(); len(gone) > 0 {
		t.Errorf("among many slots %+v is removed", gone)
	}
	p.slots = fewSlots
	for _, b := range []balancer{p.pick(f(1, "rr"), 1, balancer{}, false), p.pick(f(1, "sh"), 251, balancer{}, false)} {
		if b.lane != 0 {
			t.Errorf("a lane for %s with %d slots", b.scheduler, b.slots)
		}
	}
	if b := p.pick(f(1, "rr"), 0, first, false); b != closed(ofTCP) {
		t.Errorf("without a live backend: %+v", b)
	}
	gone := p.unused()
	if len(gone) != 1 || gone[0].balancer != first || gone[0].number != 1 {
		t.Errorf("unused: %+v", gone)
	}
	p.former = map[balancer]uint16{closed(ofTCP): 99}
	if p.use(closed(ofTCP), 1); p.numbers[closed(ofTCP)] != 99 {
		t.Errorf("a number that it had before is not used again: %d", p.numbers[closed(ofTCP)])
	}
}
