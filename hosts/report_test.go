package hosts

import (
	"strings"
	"testing"
	"time"
)

func TestReportTellsWhatDoesNotHold(t *testing.T) {
	date := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	r := Report{Suites: []*SuiteReport{
		{Suite: "trixie", Version: "v1", Date: date, System: "Debian 13", Kernel: "6.12", Engine: "26.1", Hosts: 2, Took: 9 * time.Minute, Steps: []*StepReport{
			{Name: "walk", About: "as started", Took: time.Minute},
			{Name: "ufw", About: "ufw enabled", Took: 70 * time.Second, Failures: []string{"a|b is open\nand more"}},
		}},
		{Suite: "forky", Steps: []*StepReport{{Name: "reboot", About: "rebooted", Failures: []string{"x", "y"}}}},
	}}
	if !r.Failed() {
		t.Error("it says that all holds")
	}
	page := r.Markdown()
	for _, want := range []string{
		"| trixie | Debian 13 | 6.12 | 26.1 |  |  | 2 | v1 | 2026-05-04 | 9 min |",
		"| as started | holds, 60 s | not tried |",
		"| ufw enabled | **1 thing does not hold**, 70 s | not tried |",
		"| rebooted | not tried | **2 things do not hold**, 0 s |",
		"trixie, ufw enabled:\n\n- a\\|b is open\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no\n%s\nit is\n%s", want, page)
		}
	}
	if got := r.Summary(); !strings.Contains(got, "ufw            1 FAILED       70 s\n      a|b is open\n") || strings.Contains(got, "and more") {
		t.Errorf("the summary is\n%s", got)
	}
	r.Suites[0].merge(&SuiteReport{Version: "v2", Date: date.AddDate(0, 0, 1), Steps: []*StepReport{
		{Name: "ufw", About: "ufw enabled", Took: 30 * time.Second}, {Name: "reboot", About: "rebooted", Took: time.Second},
	}})
	for _, want := range []string{"| ufw enabled | holds, 30 s (v2, 2026-05-05) |", "| rebooted | holds, 1 s (v2, 2026-05-05) |", "| as started | holds, 60 s |"} {
		if page := r.Markdown(); !strings.Contains(page, want) {
			t.Errorf("after a later run the page has no\n%s\nit is\n%s", want, page)
		}
	}
	r.Suites[0].Steps, r.Suites = r.Suites[0].Steps[:1], r.Suites[:1]
	if r.Failed() || strings.Contains(r.Markdown(), "does not hold") {
		t.Errorf("all holds, and the page is\n%s", r.Markdown())
	}
	if page := (&Report{}).Markdown(); !strings.Contains(page, "No suite has") || strings.Contains(page, "| step |") {
		t.Errorf("of nothing the page is\n%s", page)
	}
}
