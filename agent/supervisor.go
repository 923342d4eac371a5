package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"shoal/internal/health"
)

// Parts that have to have finished a full pass until this host serves: names,
// routes to other hosts' containers, the way back of published ports' replies, and
// the balancer.
var readyParts = []string{"dnsd", "fabric", "ingress", "lb"}

// passLimit is how long a part's loop may take for a pass, or a step of one. Ten
// thousand new services, claimed one by one on a slow disk, take minutes.
const passLimit = 5 * time.Minute

// statusEvery is how often the service manager is told how the agent is, where it
// does not want to be told more often.
const statusEvery = 10 * time.Second

// supervisor tells systemd how the agent is (sd_notify(3)): when it serves, that
// its loops make progress, and in words what it does. Without systemd nobody is
// told, and only the log says which loops are stuck.
type supervisor struct {
	send  func(state string)
	every time.Duration // a third of what the watchdog waits for
	log   *slog.Logger
}

func newSupervisor(log *slog.Logger) *supervisor {
	s := &supervisor{every: statusEvery, log: log.With("part", "supervisor")}
	s.send = func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			s.log.Debug("tell systemd how the agent is", "error", err)
		}
	}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("the watchdog is not fed", "error", err)
	} else if watchdog > 0 {
		s.every = min(statusEvery, watchdog/3)
	}
	return s
}

// waitsFor says what the start waits for.
func (s *supervisor) waitsFor(format string, args ...any) {
	s.send(statusLine("starts, and waits for " + fmt.Sprintf(format, args...)))
}

// startsAnew says that the agent, which served, starts again within its process.
func (s *supervisor) startsAnew(why string) {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	s.send(fmt.Sprintf("%s\nMONOTONIC_USEC=%d\n%s", daemon.SdNotifyReloading, now.Nano()/1000, statusLine("starts anew: "+why)))
}

// stops says that the agent ends.
func (s *supervisor) stops() { s.send(daemon.SdNotifyStopping + "\n" + statusLine("stops")) }

// follow says that the agent serves once it does, and feeds the watchdog until ctx
// ends, as long as no loop is stuck. Status says in a line how an agent is that
// serves.
func (s *supervisor) follow(ctx context.Context, h *health.State, status func() string) {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	ready := h.Ready()
	stuck := map[string]bool{} // as last logged
	for {
		select {
		case <-ctx.Done():
			return
		case <-ready:
			ready = nil
			s.send(daemon.SdNotifyReady + "\n" + statusLine(status()))
		case <-tick.C:
		}
		stale := h.Stale()
		s.logStuck(stale, stuck)
		switch {
		case len(stale) > 0: // and the watchdog gets nothing
			s.send(statusLine(fmt.Sprint("stuck: ", stale)))
		case ready == nil:
			s.send(daemon.SdNotifyWatchdog + "\n" + statusLine(status()))
		default:
			s.send(daemon.SdNotifyWatchdog)
		}
	}
}

// logStuck logs each loop once when it is stuck, and when it goes on.
func (s *supervisor) logStuck(stale []health.Stale, logged map[string]bool) {
	now := map[string]bool{}
	for _, l := range stale {
		now[l.Loop] = true
		if !logged[l.Loop] {
			s.log.Error("a loop of the agent makes no progress; systemd's watchdog, if it runs, restarts the agent", "loop", l.Loop, "for", l.Since)
		}
	}
	for loop := range logged {
		if !now[loop] {
			s.log.Info("a loop that was stuck goes on", "loop", loop)
			delete(logged, loop)
		}
	}
	for loop := range now {
		logged[loop] = true
	}
}

// statusLine is a text as systemctl status shows it: one line.
func statusLine(text string) string {
	return "STATUS=" + strings.Join(strings.Fields(text), " ")
}

// statusText says in a line how an agent is that serves.
func (a *Agent) statusText() string {
	s := a.catalog.Snapshot()
	if s == nil {
		return "serves"
	}
	problems := 0
	for _, p := range a.problems.List() {
		if !p.Notice {
			problems++
		}
	}
	text := fmt.Sprintf("serves; services: %d, hosts: %d, data plane: %s", len(s.Services), len(s.Nodes), a.plane.Name())
	if problems > 0 {
		text += fmt.Sprintf("; problems: %d, see shoal problems", problems)
	}
	return text
}
