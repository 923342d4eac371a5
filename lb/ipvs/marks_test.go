package ipvs

import (
	"net/netip"
	"testing"

	"shoal/lb"
	"shoal/model"
)

func TestMarks(t *testing.T) {
	k := func(n byte) lb.Key {
		return lb.Key{VIP: netip.AddrFrom4([4]byte{10, 96, 0, n}), Protocol: model.TCP}
	}
	m := newMarks()
	m.adopt(k(1), marksOf|7|noNewConns)
	m.adopt(k(2), marksOf|7) // taken
	m.adopt(k(3), 0x105)     // not ours
	if m.reserve(marksOf|8) || !m.reserve(marksOf|7) {
		t.Error("reserve does not tell known frontends")
	}
	for i, want := range []uint32{marksOf | 7, marksOf | 9, marksOf | 10} {
		if got, ok := m.get(k(byte(i + 1))); got != want || !ok {
			t.Errorf("frontend %d: mark %#x, want %#x", i+1, got, want)
		}
	}
	m.free(k(2))
	if got, _ := m.get(k(4)); got != marksOf|11 {
		t.Errorf("a freed mark is another's at once: %#x", got)
	}
	m.last = maxMarks
	if got, _ := m.get(k(5)); got != marksOf|1 {
		t.Errorf("after the last: %#x", got)
	}
}

func TestEveryPublishedPortHasAMarkOfItsOwn(t *testing.T) {
	var m portMarks
	seen := map[uint32]lb.Key{}
	for _, proto := range []model.Protocol{model.TCP, model.UDP, model.SCTP} {
		for n := 1; n <= 65535; n++ {
			k := lb.Key{Protocol: proto, Port: uint16(n)}
			mark, _ := m.of(k)
			if o, taken := seen[mark]; taken || mark == 0 {
				t.Fatalf("%s has the mark %#x, of %s", k, mark, o)
			}
			if got, known := m.key(mark); got != k || !known {
				t.Fatalf("the mark %#x is of %s, want %s", mark, got, k)
			}
			seen[mark] = k
		}
	}
}
