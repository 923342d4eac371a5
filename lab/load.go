package lab

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"shoal/lab/traffic"
)

// Load is a stream of requests made on a machine.
type Load struct {
	m *Machine
	p *Process
}

// Load begins to make requests, as `whoami load` does with args: flags, and last the target. It goes on until Stop, or the
// limit its flags set.
func (m *Machine) Load(args ...string) *Load {
	m.t.Helper()
	return m.LoadIn(nil, args...)
}

// LoadIn is Load in the namespaces that a command enters, as nsenter does: what it then runs is added to it.
func (m *Machine) LoadIn(enter []string, args ...string) *Load {
	m.t.Helper()
	return &Load{m, m.Start(slices.Concat(enter, []string{"whoami", "load", "--progress"}, args)...)}
}

// Await waits until n more requests have been answered than at the time of the call, for at most half a minute.
func (l *Load) Await(n int) {
	l.m.t.Helper()
	before := -1
	Eventually(l.m.t, 30*time.Second, "requests are answered", func() error {
		ok, failed := l.progress()
		if before < 0 {
			before = ok
		}
		if ok < before+n {
			return fmt.Errorf("%d answered, %d failed; %d were answered before", ok, failed, before)
		}
		return nil
	})
}

// progress is how many requests were answered and failed, as the last whole line of output that tells has it.
func (l *Load) progress() (ok, failed int) {
	lines := strings.Split(l.p.Output(), "\n")
	for _, line := range slices.Backward(lines[:len(lines)-1]) {
		if n, _ := fmt.Sscan(line, &ok, &failed); n == 2 {
			return ok, failed
		}
	}
	return 0, 0
}

// Requests are those that have ended so far, where its flags say --each.
func (l *Load) Requests() []traffic.Request { return traffic.ParseRequests(l.p.Output()) }

// Stop ends it and returns what became of the requests.
func (l *Load) Stop() traffic.Summary {
	l.m.t.Helper()
	_ = l.p.Signal(syscall.SIGTERM) // unless it has ended by itself
	return l.Wait(30 * time.Second)
}

// Wait waits until it has ended by itself, by a limit set in its flags, and returns what became of the requests.
func (l *Load) Wait(limit time.Duration) traffic.Summary {
	l.m.t.Helper()
	if err := l.p.Wait(limit); err != nil {
		l.m.t.Fatalf("%s: load: %v\n%s", l.m.name, err, l.p.Output())
	}
	s, err := traffic.ParseSummary(l.p.Output())
	if err != nil {
		l.m.t.Fatalf("%s: %v", l.m.name, err)
	}
	return s
}
