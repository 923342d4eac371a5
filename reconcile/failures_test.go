package reconcile

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/model"
)

var (
	start  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	errBad = errors.New("bad")
)

func TestFailingObjectsAreTriedAgainLaterAndLater(t *testing.T) {
	fs := NewFailures[string](time.Second, 5*time.Second)
	now := start
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		fs.Put("a", errBad, now)
		if got := fs.Next(now); got != want {
			t.Errorf("after %d failures: next try in %v, want %v", i+1, got, want)
		}
		if due := fs.Due(now.Add(want - 1)); len(due) > 0 {
			t.Errorf("after %d failures: due too early", i+1)
		}
		now = now.Add(want)
		if due := fs.Due(now); !slices.Equal(due, []string{"a"}) {
			t.Errorf("after %d failures: due are %v", i+1, due)
		}
	}
	if since := fs.Since("a"); since != start {
		t.Errorf("fails since %v, want %v", since, start)
	}
	if got := fs.Next(now.Add(time.Hour)); got != time.Millisecond {
		t.Errorf("an overdue try is in %v", got)
	}
	fs.Put("a", nil, now)
	if fs.Len() != 0 || fs.Next(now) != 0 || fs.Err("a") != nil || !fs.Since("a").IsZero() {
		t.Error("it still fails after a success")
	}
	fs.Put("a", errBad, now)
	if got := fs.Next(now); got != time.Second || fs.Since("a") != now {
		t.Errorf("failing anew: next try in %v, since %v", got, fs.Since("a"))
	}
}

func TestANotePostponesNoTry(t *testing.T) {
	fs := NewFailures[string](time.Second, 5*time.Second)
	fs.Note("a", errBad, start)
	worse := errors.New("worse")
	fs.Note("a", worse, start.Add(900*time.Millisecond))
	if got := fs.Next(start.Add(900 * time.Millisecond)); got != 100*time.Millisecond {
		t.Errorf("next try in %v", got)
	}
	if fs.Err("a") != worse {
		t.Errorf("reason: %v", fs.Err("a"))
	}
	fs.Note("a", nil, start)
	if fs.Len() != 0 {
		t.Error("it still fails")
	}
}

func TestPutAllForgetsWhatIsNotNamed(t *testing.T) {
	fs := NewFailures[string](time.Second, 5*time.Second)
	fs.PutAll(map[string]error{"a": errBad, "b": errBad}, start)
	fs.PutAll(map[string]error{"b": errBad, "c": errBad, "d": nil}, start.Add(time.Second))
	for k, want := range map[string]time.Time{"a": {}, "b": start, "c": start.Add(time.Second), "d": {}} {
		if got := fs.Since(k); got != want {
			t.Errorf("%s fails since %v, want %v", k, got, want)
		}
	}
}

func TestProblemsAreDatedAndInOrder(t *testing.T) {
	type object struct{ kind, name string }
	fs := NewFailures[object](time.Second, 5*time.Second)
	fs.Put(object{"service", "s/b"}, errBad, start)
	fs.Put(object{"service", "s/a"}, errBad, start.Add(time.Second))
	fs.Put(object{"kernel", "x"}, errBad, start)
	fs.Put(object{"kernel", "x"}, errors.New("worse"), start.Add(time.Minute))
	got := fs.Problems(func(o object, err error) model.Problem {
		return model.Problem{Kind: o.kind, Object: o.name, Reason: "because: " + err.Error()}
	})
	want := []model.Problem{
		{Kind: "kernel", Object: "x", Reason: "because: worse", Since: start},
		{Kind: "service", Object: "s/a", Reason: "because: bad", Since: start.Add(time.Second)},
		{Kind: "service", Object: "s/b", Reason: "because: bad", Since: start},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestSooner(t *testing.T) {
	for _, tt := range []struct{ a, b, want time.Duration }{{0, 0, 0}, {0, 2, 2}, {2, 0, 2}, {1, 2, 1}, {2, 1, 1}} {
		if got := Sooner(tt.a, tt.b); got != tt.want {
			t.Errorf("Sooner(%d, %d) = %d", tt.a, tt.b, got)
		}
	}
}
