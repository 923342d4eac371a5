package nft

import (
	"maps"
	"testing"
)

func TestNearestScheduler(t *testing.T) {
	p := &Plane{}
	got := map[string]string{}
	for _, s := range []string{"rr", "wrr", "sh", "mh", "dh", "fo", "lc", "wlc", "sed", "nq", "lblc", "ovf"} {
		got[s] = p.Scheduler(s)
	}
	want := map[string]string{"rr": "rr", "wrr": "wrr", "sh": "sh", "mh": "mh", "dh": "dh", "fo": "fo",
		"lc": "rr", "wlc": "wrr", "sed": "wrr", "nq": "wrr", "lblc": "wrr", "ovf": "wrr"}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
