package bench

import (
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"shoal/lab"
)

// restarts starts the agent again, with all services: once with the kernel as it
// was left, and once with nothing there.
func (w *world) restarts() []Row {
	w.Logf("the agent starts again, nothing has changed")
	label := "agent, " + services(w.fakes+1)
	begun := time.Now()
	w.host.RestartAgent()
	m := w.awaitPass()
	took := time.Since(begun)
	if m.writes > 0 {
		w.Logf("what it wrote: %v", m.facilities)
	}
	unchanged := Row{What: label + ": unchanged restart after SIGKILL, writes to the kernel",
		Shoal: fmt.Sprintf("%.0f writes; all is compared %.1f s after the start", m.writes, took.Seconds()),
		Aim:   "0", Met: m.writes == 0}

	w.Logf("the agent starts with nothing in the kernel")
	w.host.KillAgent(unix.SIGTERM)
	w.host.Shoal("down", "--state-dir", filepath.Join(w.host.Dir(), "state"))
	begun = time.Now()
	w.host.StartAgent(planeAlone...)
	answers := time.Since(begun)
	w.awaitFakes()
	at := w.client.firstAnswer(w.client.path(w.web, port), 10*time.Millisecond)
	if at.IsZero() {
		w.Fatalf("the kernel has all services, and web does not answer")
	}
	took = at.Sub(begun)
	empty := Row{What: fmt.Sprintf("%s × %d tasks from empty: its start to the kernel having them, and web answering", label, fakeTasks),
		Shoal:   fmt.Sprintf("%.1f s", took.Seconds()),
		Against: fmt.Sprintf("%.1f s until its API answers", answers.Seconds())}
	w.awaitPass()
	return []Row{unchanged, empty}
}

// awaitPass waits until the agent has compared everything once since it was started.
func (w *world) awaitPass() (m metrics) {
	lab.Eventually(w, waitLimit, "the agent has compared everything", func() (err error) {
		m, err = w.tryMetrics()
		return err
	})
	return m
}
