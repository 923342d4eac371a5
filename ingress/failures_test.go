package ingress

import (
	"errors"
	"testing"
	"time"
)

func TestWhatFailsIsTriedAgainLaterEachTime(t *testing.T) {
	fs := failures{}
	now := time.Unix(0, 0)
	o := object{kind: "kernel", name: "iptables"}
	errs := map[object]error{o: errors.New("no")}
	for _, want := range []time.Duration{1, 2, 4, 5, 5} {
		fs.update("kernel", errs, true, now)
		if got := fs.wait(now); got != want*time.Second {
			t.Errorf("next in %v, want %v", got, want*time.Second)
		}
		if fs.due(now) {
			t.Error("due at once")
		}
		now = now.Add(want * time.Second)
		if !fs.due(now) {
			t.Error("not due in time")
		}
	}
	fs.update("service", nil, true, now)
	if ps := fs.problems("a"); len(ps) != 1 || !ps[0].Since.Equal(time.Unix(0, 0)) {
		t.Errorf("problems %v, want one since the first time", ps)
	}
	fs.update("kernel", nil, true, now)
	if ps := fs.problems("a"); len(ps) != 0 || fs.wait(now) != 0 {
		t.Errorf("problems %v after it went well", ps)
	}
}
