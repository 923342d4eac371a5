package slots

import (
	"net/netip"
	"slices"
	"testing"

	"shoal/lb"
)

// weights are backends 10.0.0.1 and so on.
func weights(ws ...int) (bs []lb.Backend) {
	a := netip.MustParseAddr("10.0.0.1")
	for _, w := range ws {
		bs = append(bs, lb.Backend{Addr: netip.AddrPortFrom(a, 80), Weight: w})
		a = a.Next()
	}
	return bs
}

func shareOf(slots []int) map[int]int {
	n := map[int]int{}
	for _, s := range slots {
		n[s]++
	}
	return n
}

func TestSlots(t *testing.T) {
	for name, tc := range map[string]struct {
		scheduler string
		weights   []int
		want      []int
	}{
		"nobody is live":              {"rr", []int{0, 0}, nil},
		"one is live":                 {"wrr", []int{0, 7}, []int{1}},
		"rr minds no weights":         {"rr", []int{1, 5, 0, 2}, []int{0, 1, 3}},
		"equal weights are rr":        {"wrr", []int{4, 4}, []int{0, 1}},
		"a weight is spread":          {"wrr", []int{3, 1, 1}, []int{0, 1, 0, 2, 0}},
		"weights have a divisor":      {"wrr", []int{20, 10}, []int{0, 1, 0}},
		"fo takes the heaviest":       {"fo", []int{1, 9, 9, 2}, []int{1}},
		"fo takes the next that live": {"fo", []int{1, 0, 0, 2}, []int{3}},
	} {
		if got := Fill(tc.scheduler, weights(tc.weights...)); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestManySlotsAreBounded(t *testing.T) {
	got := shareOf(Fill("wrr", weights(65535, 32749, 1)))
	if n := got[0] + got[1] + got[2]; n > maxSlots+3 || got[2] != 1 || got[0] < 2*got[1]-3 || got[0] > 2*got[1]+3 {
		t.Errorf("shares of weights 65535, 32749 and 1: %v", got)
	}
}

func TestHashingIsFairAndMovesFewClients(t *testing.T) {
	before := Fill("sh", weights(1, 1, 1, 1, 1))
	for b, n := range shareOf(before) {
		if n < 48 || n > 52 {
			t.Errorf("backend %d has %d of %d slots", b, n, len(before))
		}
	}
	if again := Fill("mh", weights(1, 1, 1, 1, 1)); !slices.Equal(before, again) {
		t.Error("the same backends have other slots")
	}
	after := Fill("sh", weights(1, 1, 0, 1, 1))
	moved := 0
	for i := range before {
		if before[i] != 2 && before[i] != after[i] {
			moved++
		}
	}
	if moved > len(before)/10 {
		t.Errorf("%d of %d slots moved between backends that stay", moved, len(before))
	}
	if got := shareOf(Fill("sh", weights(3, 1))); got[0] < 180 || got[0] > 195 {
		t.Errorf("shares of weights 3 and 1: %v", got)
	}
	if n := len(Fill("sh", weights(slices.Repeat([]int{1}, 50)...))); n != 4093 {
		t.Errorf("%d slots for 50 backends", n)
	}
}

func TestWhichSchedulersSlotsHave(t *testing.T) {
	for _, s := range []string{"rr", "wrr", "fo", "sh", "mh", "dh"} {
		if !Has(s) {
			t.Errorf("%s is not among them", s)
		}
	}
	for _, s := range []string{"lc", "wlc", "sed", "nq", "lblc", "ovf", ""} {
		if Has(s) {
			t.Errorf("%q is among them", s)
		}
	}
}
