package ipset

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
)

var compare = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func TestEntriesComeBackAsTheyWereWritten(t *testing.T) {
	a, b := netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00::1")
	want := map[Entry]uint32{
		Addr(a):             0x53000001,
		Addr(b):             0xffffffff,
		AddrPort(a, 17, 53): 7,
		AddrPort(a, 6, 0):   8,
		Pair(a, a):          9,
		{Net: netip.MustParsePrefix("172.18.0.0/16")}:           10,
		NetIface(netip.MustParsePrefix("172.18.0.0/16"), "br1"): 11,
		Ether([6]byte{2, 0, 0, 0, 0, 1}):                        12,
	}
	var batch []Entry
	for e := range want {
		batch = append(batch, e)
	}
	got := map[Entry]uint32{}
	sets := 0
	decode(encode(Set{Name: "SHOAL-X", Mark: true}, batch, want, true), func(set string, e Entry, mark uint32, entry bool) {
		if set != "SHOAL-X" {
			t.Errorf("set %q", set)
		}
		if !entry {
			sets++
			return
		}
		got[e] = mark
	})
	if d := cmp.Diff(want, got, compare); d != "" || sets != 1 {
		t.Errorf("%d sets; %s", sets, d)
	}
}

// The octets as the ipset program sends them for
// "ipset add A 10.96.0.1 skbmark 0x53000001", and with the mask for
// "ipset add A 10.96.0.1 skbmark 0x53000001/0xff00ffff".
func TestMarkIsEncodedWithItsMask(t *testing.T) {
	for mask, want := range map[uint32][]byte{
		0:          {0x53, 0, 0, 1, 0xff, 0xff, 0xff, 0xff},
		0xff00ffff: {0x53, 0, 0, 1, 0xff, 0, 0xff, 0xff},
	} {
		e := Addr(netip.MustParseAddr("10.96.0.1"))
		msg := encode(Set{Name: "A", Mark: true, Mask: mask}, []Entry{e}, map[Entry]uint32{e: 0x53000001}, true)
		var mark []byte
		attributes(msg, func(typ uint16, v []byte) {
			if typ != nl.IPSET_ATTR_ADT {
				return
			}
			attributes(v, func(_ uint16, v []byte) {
				attributes(v, func(typ uint16, v []byte) {
					if typ == nl.IPSET_ATTR_SKBMARK {
						mark = v
					}
				})
			})
		})
		if d := cmp.Diff(want, mark); d != "" {
			t.Errorf("mask %#x: %s", mask, d)
		}
	}
}

func TestEntriesAreNamedAsIpsetDoes(t *testing.T) {
	a, n := netip.MustParseAddr("10.96.0.1"), netip.MustParsePrefix("172.18.0.0/16")
	for want, e := range map[string]Entry{
		"10.96.0.1":           Addr(a),
		"10.96.0.1,17:53":     AddrPort(a, 17, 53),
		"10.96.0.1,10.96.0.1": Pair(a, a),
		"172.18.0.0/16,br1":   NetIface(n, "br1"),
		"02:00:00:00:00:01":   Ether([6]byte{2, 0, 0, 0, 0, 1}),
	} {
		if got := e.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	e := Pair(netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("10.96.0.2"))
	f.Add(encode(Set{Name: "A", Mark: true}, []Entry{e}, map[Entry]uint32{e: 1}, true))
	f.Add([]byte{4, 0, 0, 0, 3, 0})
	f.Fuzz(func(t *testing.T, msg []byte) {
		decode(msg, func(string, Entry, uint32, bool) {})
	})
}
