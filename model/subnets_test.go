package model

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestAnyOverlapMissesNone: whatever Overlap tells of any node, AnyOverlap tells too.
func TestAnyOverlapMissesNone(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	overlaps := 0
	for range 3000 {
		var nodes []Node
		for i := range 1 + rnd.IntN(6) {
			n := Node{Name: string(rune('a' + i)), Number: uint16(rnd.IntN(4)), Addr: netip.AddrFrom4([4]byte{192, 168, 0, byte(i)})}
			if rnd.IntN(6) > 0 {
				n.Subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(rnd.IntN(64)), 7}), 20+rnd.IntN(8))
			}
			if rnd.IntN(8) == 0 {
				n.Addr = netip.AddrFrom4([4]byte{10, 244, byte(rnd.IntN(64)), 9})
			}
			nodes = append(nodes, n)
		}
		any := AnyOverlap(nodes)
		for _, n := range nodes {
			if n.Subnet.IsValid() && Overlap(n, nodes) != nil {
				overlaps++
				if !any {
					t.Fatalf("%v, and none overlaps in %+v", Overlap(n, nodes), nodes)
				}
			}
		}
	}
	apart := []Node{
		{Name: "a", Addr: netip.MustParseAddr("192.0.2.1"), Subnet: netip.MustParsePrefix("10.0.0.0/24")},
		{Name: "b", Addr: netip.MustParseAddr("192.0.2.2"), Subnet: netip.MustParsePrefix("10.0.1.0/24")},
	}
	if overlaps < 100 || AnyOverlap(apart) {
		t.Errorf("%d overlaps were found; of those apart: %t", overlaps, AnyOverlap(apart))
	}
}
