package memory

import (
	"testing"
	"time"
)

func TestMemoryIsGivenBackAtRest(t *testing.T) {
	const mb = 1 << 20
	at := time.Unix(1, 0)
	var r rest
	var allocated uint64
	for i, step := range []struct {
		after           time.Duration
		live, held, new uint64 // MiB; new is allocated since the step before
		want            bool
		why             string
	}{
		{0, 100, 300, 500, false, "nothing is known yet"},
		{9 * time.Second, 100, 300, 1, false, "not at rest for long enough"},
		{time.Second, 100, 300, 1, true, "at rest, with much to spare"},
		{10 * time.Second, 100, 300, 1, false, "it was given back, and little is new"},
		{time.Second, 100, 300, 200, false, "busy"},
		{9 * time.Second, 100, 300, 10, false, "at rest for nine seconds"},
		{time.Second, 100, 300, 10, true, "at rest again"},
		{time.Second, 100, 300, 100, false, "busy"},
		{10 * time.Second, 100, 120, 1, false, "too little to spare"},
	} {
		at = at.Add(step.after)
		allocated += step.new * mb
		h := heap{live: step.live * mb, held: step.held * mb, allocated: allocated}
		if got := r.over(h, at); got != step.want {
			t.Errorf("step %d, %s: %v", i, step.why, got)
		}
	}
}
