package agent

import (
	"errors"
	"testing"

	"shoal/model"
)

func TestNearlyFullConnectionTrackingIsAProblem(t *testing.T) {
	for _, tt := range []struct {
		entries, limit int
		err            error
		want           model.Code // "": no problem
	}{
		{0, 0, nil, ""}, // nothing is tracked
		{0, 100, nil, ""},
		{79, 100, nil, ""},
		{80, 100, nil, model.ConntrackFull},
		{101, 100, nil, model.ConntrackFull},
		{209_715, 262_144, nil, ""},
		{209_716, 262_144, nil, model.ConntrackFull},
		{0, 0, errors.New("no"), model.KernelReadFailed},
	} {
		var got model.Code
		for _, p := range trackingProblems(tt.entries, tt.limit, tt.err) {
			got = p.Code
		}
		if got != tt.want {
			t.Errorf("%d of %d, %v: %q, want %q", tt.entries, tt.limit, tt.err, got, tt.want)
		}
	}
	if a, b := trackingProblems(85, 100, nil), trackingProblems(90, 100, nil); a[0] != b[0] {
		t.Error("it is another problem at each look")
	}
}
