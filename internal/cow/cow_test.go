package cow

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
)

// TestVersions does the same to a map and to this one, and looks at all versions at the end.
func TestVersions(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var m Map[string, int]
	plain := map[string]int{}
	type version struct {
		m    Map[string, int]
		want map[string]int
	}
	var all []version
	for range 300 {
		e := m.Edit()
		for range rnd.IntN(20) {
			k := fmt.Sprint(rnd.IntN(500))
			if rnd.IntN(3) == 0 {
				e.Delete(k)
				delete(plain, k)
			} else {
				v := rnd.Int()
				e.Set(k, v)
				plain[k] = v
			}
			if v, ok := e.Get(k); v != plain[k] || ok != (v != 0) {
				t.Fatalf("in the making, %s is %d, %t; want %d", k, v, ok, plain[k])
			}
		}
		m = e.Map()
		all = append(all, version{m, maps.Clone(plain)})
	}
	for i, v := range all {
		if got := maps.Collect(v.m.All()); !maps.Equal(got, v.want) || v.m.Len() != len(v.want) {
			t.Fatalf("version %d has %d entries: %v; want %v", i, v.m.Len(), got, v.want)
		}
		for k, want := range v.want {
			got, ok := v.m.Get(k)
			same, alike := GetBytes(v.m, []byte(k))
			if got != want || !ok || same != want || !alike {
				t.Fatalf("version %d: %s is %d, %t and %d, %t; want %d", i, k, got, ok, same, alike, want)
			}
		}
		if _, ok := v.m.Get("none"); ok {
			t.Fatal("there is what was never put")
		}
	}
	if n := testing.AllocsPerRun(100, func() { GetBytes(m, []byte("a key that is longer than thirty-two octets")) }); n > 0 {
		t.Errorf("a look allocates %v times", n)
	}
}

// TestEqualVersionsAreDeeplyEqual, however they came about.
func TestEqualVersionsAreDeeplyEqual(t *testing.T) {
	e := Map[string, int]{}.Edit()
	e.Set("a", 1)
	one := e.Map()
	e = one.Edit()
	e.Set("b", 2)
	two := e.Map()
	e = two.Edit()
	e.Delete("b")
	if back := e.Map(); !reflect.DeepEqual(back, one) || reflect.DeepEqual(two, one) {
		t.Errorf("%v is not %v", maps.Collect(back.All()), maps.Collect(one.All()))
	}
	e = one.Edit()
	e.Delete("a")
	if !reflect.DeepEqual(e.Map(), Map[string, int]{}) {
		t.Error("without its last entry it is not empty")
	}
}

func TestTheEmptyMap(t *testing.T) {
	var m Map[netip.Addr, bool]
	if _, ok := m.Get(netip.Addr{}); ok || m.Len() != 0 {
		t.Error("it has something")
	}
	e := m.Edit()
	e.Delete(netip.MustParseAddr("192.0.2.1"))
	if e.Map().Len() != 0 {
		t.Error("deleting what is not there counts")
	}
}

func BenchmarkOneChange(b *testing.B) {
	var m Map[netip.Addr, int]
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	e := m.Edit()
	for i := range 100_000 {
		e.Set(addr(i), i)
	}
	m = e.Map()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e := m.Edit()
		e.Set(addr(i%100_000), i)
		m = e.Map()
	}
}
