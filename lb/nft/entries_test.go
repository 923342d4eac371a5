package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/lb"
	lbslots "shoal/lb/slots"
	"shoal/model"
)

// text is what entries say, in the words of nft.
func text(es entries) (lines []string) {
	for s, m := range es {
		for k, v := range m {
			key := ""
			switch s {
			case services, refused, targets, slots, backends, ids:
				a, p, port := readKey(k)
				key = fmt.Sprintf("%s . %s . %d", a, p, port)
				switch rest := k[12:]; {
				case s == backends:
					key += fmt.Sprintf(" . %s", readEndpoint(rest))
				case len(rest) == 4:
					key += fmt.Sprintf(" . %d", binary.NativeEndian.Uint32([]byte(rest)))
				}
			default:
				for part := range slices.Chunk([]byte(k), 4) {
					key += " " + netip.AddrFrom4([4]byte(part)).String()
				}
				key = key[1:]
			}
			switch {
			case len(v) == 2:
				key += fmt.Sprintf(" : %d", readNumber(v))
			case len(v) == 4:
				key += " : " + netip.AddrFrom4([4]byte([]byte(v))).String()
			case len(v) == 8:
				key += fmt.Sprintf(" : %s", readEndpoint(v))
			}
			lines = append(lines, s.name+" "+key)
		}
	}
	slices.Sort(lines)
	return lines
}

func TestEntriesOfAFrontend(t *testing.T) {
	vip, on := netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("192.168.1.1")
	backend := func(s string, weight int, here bool) lb.Backend {
		return lb.Backend{Addr: netip.MustParseAddrPort(s), Weight: weight, Local: here}
	}
	for name, tc := range map[string]struct {
		f    lb.Frontend
		want []string
	}{
		"all TCP ports are those of SCTP too": {
			lb.Frontend{Key: lb.Key{VIP: vip, Protocol: model.TCP}, Scheduler: "rr", Backends: []lb.Backend{backend("10.244.1.2:0", 1, true), backend("10.244.2.2:0", 2, false)}},
			[]string{
				"backends 10.96.0.1 . tcp . 0 . 10.244.1.2:0 : 1", "backends 10.96.0.1 . tcp . 0 . 10.244.2.2:0 : 2",
				"services 10.96.0.1 . sctp . 0 : 7", "services 10.96.0.1 . tcp . 0 : 7",
				"slots 10.96.0.1 . tcp . 0 . 0 : 10.244.1.2:0", "slots 10.96.0.1 . tcp . 0 . 1 : 10.244.2.2:0",
				"vips 10.96.0.1",
			},
		},
		"a named port, one backend out of rotation": {
			lb.Frontend{Key: lb.Key{VIP: vip, Protocol: model.UDP, Port: 53}, Scheduler: "rr", Backends: []lb.Backend{backend("10.244.1.2:5353", 1, true), backend("10.244.2.2:5353", 0, false)}},
			[]string{
				"backends 10.96.0.1 . udp . 53 . 10.244.1.2:5353 : 1", "backends 10.96.0.1 . udp . 53 . 10.244.2.2:5353 : 0",
				"services 10.96.0.1 . udp . 53 : 7", "slots 10.96.0.1 . udp . 53 . 0 : 10.244.1.2:5353", "vips 10.96.0.1",
			},
		},
		"nobody is live": {
			lb.Frontend{Key: lb.Key{VIP: vip, Protocol: model.TCP, Port: 80}, Scheduler: "rr", Backends: []lb.Backend{backend("10.244.1.2:8080", 0, true)}},
			[]string{"backends 10.96.0.1 . tcp . 80 . 10.244.1.2:8080 : 0", "services 10.96.0.1 . tcp . 80 : 7"},
		},
		"with affinity, slots lead to backends by their numbers": {
			lb.Frontend{Key: lb.Key{VIP: vip, Protocol: model.TCP, Port: 80}, Scheduler: "rr", Affinity: time.Minute, Backends: []lb.Backend{backend("10.10.10.10:0", 1, false)}},
			[]string{"backends 10.96.0.1 . tcp . 80 . 10.10.10.10:0 : 1", "ids 10.96.0.1 . tcp . 80 . 0 : 10.10.10.10", "services 10.96.0.1 . tcp . 80 : 7",
				fmt.Sprintf("slots 10.96.0.1 . tcp . 80 . %d : 10.10.10.10:0", 0x0a0a0a0a), "vips 10.96.0.1"},
		},
		"a published port": {
			lb.Frontend{Key: lb.Key{Protocol: model.TCP, Port: 8080}, Scheduler: "fo", Backends: []lb.Backend{backend("10.244.1.2:80", 1, true), backend("10.244.2.2:80", 2, false)}},
			[]string{
				"backends 0.0.0.0 . tcp . 8080 . 10.244.1.2:80 : 1", "backends 0.0.0.0 . tcp . 8080 . 10.244.2.2:80 : 2",
				"services 0.0.0.0 . tcp . 8080 : 7", "slots 0.0.0.0 . tcp . 8080 . 0 : 10.244.2.2:80", "targets 10.244.1.2 . tcp . 80",
			},
		},
		"a published port on one address, without a live backend": {
			lb.Frontend{Key: lb.Key{Protocol: model.TCP, Port: 8080}, On: []netip.Addr{on}, Scheduler: "rr", Backends: []lb.Backend{backend("10.244.1.2:80", 0, true)}},
			[]string{"backends 0.0.0.0 . tcp . 8080 . 10.244.1.2:80 : 0", "refused 192.168.1.1 . tcp . 8080", "services 192.168.1.1 . tcp . 8080 : 7", "targets 10.244.1.2 . tcp . 80"},
		},
	} {
		f := &frontend{Frontend: &tc.f, backends: tc.f.Backends, slots: lbslots.Fill(tc.f.Scheduler, tc.f.Backends)}
		own, shared := f.entriesOf(7)
		own.merge(shared)
		if d := cmp.Diff(tc.want, text(own)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestEntriesOfATask(t *testing.T) {
	a := netip.MustParseAddr("10.244.1.2")
	for name, tc := range map[string]struct {
		e    lb.Endpoint
		want []string
	}{
		"here":      {lb.Endpoint{Local: true}, []string{"hairpin 10.244.1.2 10.244.1.2", "local 10.244.1.2", "tasks 10.244.1.2"}},
		"elsewhere": {lb.Endpoint{}, []string{"tasks 10.244.1.2"}},
		"the host":  {lb.Endpoint{Local: true, Host: true}, []string{"local 10.244.1.2", "tasks 10.244.1.2"}},
	} {
		if d := cmp.Diff(tc.want, text(endpointEntries(a, tc.e))); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestRangesDoNotOverlap(t *testing.T) {
	var ps []netip.Prefix
	for _, p := range []string{"192.168.1.7/32", "10.0.0.0/8", "10.1.0.0/16", "192.168.1.8/32", "255.255.255.0/24", "10.0.0.0/24"} {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	es := entries{}
	es.ranges(inside, "", ps)
	want := []string{"inside 10.0.0.0 10.255.255.255", "inside 192.168.1.7 192.168.1.8", "inside 255.255.255.0 255.255.255.255"}
	if d := cmp.Diff(want, text(es)); d != "" {
		t.Error(d)
	}
}

func TestPlanIsOnlyWhatDiffers(t *testing.T) {
	have, want := entries{}, entries{}
	for _, v := range []struct {
		in         entries
		key, value string
	}{{have, "same", "1"}, {want, "same", "1"}, {have, "old", "1"}, {have, "other", "1"}, {want, "other", "2"}, {want, "new", "3"}} {
		v.in.put(slots, []byte(v.key), []byte(v.value))
	}
	have.put(vips, []byte("gone"), nil)
	p := plan{}
	p.diff(have, want)
	if d := cmp.Diff(map[string]string{"other": "2", "new": "3"}, p[slots].put); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]string{"old": "1", "other": "1"}, p[slots].remove); d != "" {
		t.Error(d)
	}
	if len(p[vips].put) != 0 || len(p[vips].remove) != 1 {
		t.Errorf("plan: %+v", p)
	}
}

// order is a plan's writes, a set and a sign each.
func order(p plan, packets map[string]uint64) (all [][]string) {
	for _, steps := range p.batches(packets) {
		var line []string
		for _, s := range steps {
			sign := "-"
			if s.put {
				sign = "+"
			}
			line = append(line, fmt.Sprintf("%s%s %d", sign, s.set.name, len(s.values)))
		}
		all = append(all, line)
	}
	return all
}

func TestWhatPacketsFindIsThereAndGoesFirst(t *testing.T) {
	have, want := entries{}, entries{}
	for i := range 2 {
		have.put(slots, u32(uint32(i)), u32(1))
		have.put(services, u32(uint32(i)), u32(1))
		want.put(slots, u32(uint32(i+1)), u32(2))
		want.put(services, u32(uint32(i+1)), u32(2))
	}
	have.put(inside, u32(1), nil)
	want.put(inside, u32(2), nil)
	p := plan{}
	p.diff(have, want)
	want1 := []string{"-services 1", "-inside 1", "+inside 1", "-slots 1", "+slots 1", "+slots 1", "-services 1", "+services 1", "+services 1", "-slots 1"}
	if d := cmp.Diff([][]string{want1}, order(p, nil)); d != "" {
		t.Error(d)
	}
	for _, steps := range p.batches(map[string]uint64{string(u32(1)): 42}) {
		for _, s := range steps {
			for _, e := range s.values {
				if kept := s.put && s.set == services && e.key == string(u32(1)); kept != (e.packets == 42) {
					t.Errorf("entry %q of %s, put %t: %d packets", e.key, s.set.name, s.put, e.packets)
				}
			}
		}
	}
}

func TestALargePlanIsSplitButNotBetweenAnEntryAndWhatTakesItsPlace(t *testing.T) {
	have, want := entries{}, entries{}
	for i := range 3 * perBatch {
		have.put(slots, u32(uint32(i)), u32(1))
		want.put(slots, u32(uint32(i)), u32(2))
	}
	p := plan{}
	p.diff(have, want)
	all := p.batches(nil)
	if len(all) < 3 {
		t.Errorf("%d transactions", len(all))
	}
	for _, steps := range all {
		removed := map[string]bool{}
		for _, s := range steps {
			if len(s.values) > most {
				t.Errorf("%d entries in one message", len(s.values))
			}
			for _, e := range s.values {
				if !s.put {
					removed[e.key] = true
				} else if !removed[e.key] {
					t.Fatal("an entry is put in another transaction than the one it is removed in")
				}
			}
		}
	}
}

func TestFlowsOfAFrontend(t *testing.T) {
	vip := netip.MustParseAddr("10.96.0.1")
	at := netip.MustParseAddrPort
	all, http, udp := lb.Key{VIP: vip, Protocol: model.TCP}, lb.Key{VIP: vip, Protocol: model.TCP, Port: 80}, lb.Key{VIP: vip, Protocol: model.UDP}
	published := lb.Key{Protocol: model.TCP, Port: 8080}
	named := func(k lb.Key) bool { return k == http }
	for name, tc := range map[string]struct {
		f    flow
		want []lb.Key
	}{
		"a named port":                     {flow{protocol: model.TCP, dest: at("10.96.0.1:80")}, []lb.Key{http}},
		"another port":                     {flow{protocol: model.TCP, dest: at("10.96.0.1:81")}, []lb.Key{all}},
		"SCTP":                             {flow{protocol: model.SCTP, dest: at("10.96.0.1:80")}, []lb.Key{all}},
		"UDP":                              {flow{protocol: model.UDP, dest: at("10.96.0.1:80")}, []lb.Key{udp}},
		"another VIP":                      {flow{protocol: model.TCP, dest: at("10.96.0.2:80")}, nil},
		"a published port":                 {flow{protocol: model.TCP, dest: at("192.168.1.1:8080"), mark: lb.ConnMark}, []lb.Key{published}},
		"a published port of another host": {flow{protocol: model.TCP, dest: at("192.168.1.2:8080"), mark: lb.ConnMark | 2}, nil},
		"somebody else's port":             {flow{protocol: model.TCP, dest: at("192.168.1.1:8080")}, nil},
	} {
		var got []lb.Key
		for _, k := range []lb.Key{all, http, udp, published} {
			if tc.f.through(k, named) {
				got = append(got, k)
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: came by %v, want %v", name, got, tc.want)
		}
	}
}
