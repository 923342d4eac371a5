package diagnose

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"shoal/model"
)

func TestProblemIsLoggedOnceAndKeepsItsTime(t *testing.T) {
	var log bytes.Buffer
	ps := NewProblems("a", slog.New(slog.NewTextHandler(&log, nil)))
	bad := model.Problem{Kind: "service", Object: "default/web", Reason: "the pool is full"}
	ps.Set("vip", []model.Problem{bad})
	first := ps.List()
	if len(first) != 1 || first[0].Node != "a" || first[0].Since.IsZero() {
		t.Fatalf("got %+v", first)
	}
	ps.Set("lb", nil) // another part has none
	ps.Set("vip", []model.Problem{bad})
	if again := ps.List(); len(again) != 1 || again[0] != first[0] {
		t.Errorf("the problem changed: %+v, was %+v", again, first)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, &log)
	}
	ps.Set("vip", nil)
	if rest := ps.List(); len(rest) != 0 {
		t.Errorf("it is still there: %+v", rest)
	}
	if !strings.Contains(log.String(), "problem is gone") {
		t.Errorf("its end was not logged:\n%s", &log)
	}
}

func TestAProblemHasACodeAndANoticeIsNoWarning(t *testing.T) {
	var log bytes.Buffer
	ps := NewProblems("a", slog.New(slog.NewTextHandler(&log, nil)))
	ps.Set("lb", []model.Problem{
		{Kind: "service", Object: "s/a", Reason: "no code"},
		{Kind: "service", Object: "s/b", Code: model.SchedulerNearest, Notice: true, Reason: "wlc is not there: rr"},
	})
	if all := ps.List(); len(all) != 2 || all[0].Code != model.Unclassified || all[1].Code != model.SchedulerNearest {
		t.Errorf("%+v", all)
	}
	for _, want := range []string{"level=WARN msg=problem code=unclassified", "level=INFO msg=notice code=scheduler-nearest"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, &log)
		}
	}
}
