package lb

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestThePlaneIsToldWhichAddressesRestAndWhichNoLonger(t *testing.T) {
	b, plane := newRecorder(t, Options{})
	b.Reconcile(t.Context(), snapshot(), false)
	for _, step := range []struct {
		resting string
		want    []string
	}{
		{"", nil},
		{"10.0.0.1 10.0.0.2", []string{"10.0.0.1 rests", "10.0.0.2 rests"}},
		{"10.0.0.1 10.0.0.2", nil},
		{"10.0.0.2 10.0.0.3", []string{"10.0.0.1 rests no longer", "10.0.0.3 rests"}},
		{"", []string{"10.0.0.2 rests no longer", "10.0.0.3 rests no longer"}},
	} {
		s := snapshot()
		for _, a := range strings.Fields(step.resting) {
			s.Resting = append(s.Resting, netip.MustParseAddr(a))
		}
		b.Reconcile(t.Context(), s, false)
		if !slices.Equal(plane.last, step.want) {
			t.Errorf("with %q resting, the plane is told %q, want %q", step.resting, plane.last, step.want)
		}
	}
}
