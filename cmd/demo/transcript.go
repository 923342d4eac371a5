package main

import (
	"fmt"
	"strings"
	"time"

	"shoal/lab"
)

// transcript shows what is done and seen as one would in a terminal, and ends
// the demo at the first step that does not hold. It is the lab's T.
type transcript struct {
	steps   int
	started time.Time
	cleanup []func()
	failed  bool
}

func (t *transcript) Helper()          {}
func (t *transcript) Name() string     { return "demo" }
func (t *transcript) Failed() bool     { return t.failed }
func (t *transcript) Cleanup(f func()) { t.cleanup = append(t.cleanup, f) }
func (t *transcript) Logf(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
}

// stopped is what Fatalf panics with; run ends with it.
type stopped struct{}

func (t *transcript) Fatalf(format string, args ...any) {
	t.failed = true
	fmt.Printf("\n✗ "+format+"\n", args...)
	panic(stopped{})
}

// run calls f, cleans up, and returns the exit code.
func (t *transcript) run(f func()) (code int) {
	t.started = time.Now()
	defer func() {
		p := recover()
		if _, mine := p.(stopped); p != nil && !mine {
			panic(p)
		}
		for i := len(t.cleanup) - 1; i >= 0; i-- {
			t.cleanup[i]()
		}
		if t.failed {
			fmt.Println("\nThe demo stopped: a step did not hold.")
			code = 1
		}
	}()
	f()
	return 0
}

// step begins a part of the story.
func (t *transcript) step(title string) {
	t.steps++
	fmt.Printf("\n── %d. %s  [%.0f s]\n", t.steps, title, time.Since(t.started).Seconds())
}

// note says what one sees.
func (t *transcript) note(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }

// holds says that something held, or ends the demo.
func (t *transcript) holds(ok bool, format string, args ...any) {
	if !ok {
		t.Fatalf(format, args...)
	}
	fmt.Printf(" ✓ "+format+"\n", args...)
}

// on runs a command on a host, shows both, and returns its output.
func (t *transcript) on(h *lab.Host, args ...string) string {
	t.command(h, args)
	out := h.Exec(args...)
	t.output(out)
	return out
}

// docker is on, for the host's engine.
func (t *transcript) docker(h *lab.Host, args ...string) string {
	t.command(h, append([]string{"docker"}, args...))
	out := h.Docker(args...)
	t.output(out)
	return out
}

// shoal is on, for the host's agent.
func (t *transcript) shoal(h *lab.Host, args ...string) string {
	t.command(h, append([]string{"shoal"}, args...))
	out := h.Shoal(args...)
	t.output(out)
	return out
}

// command shows a command as typed on a machine.
func (t *transcript) command(m interface{ Name() string }, args []string) {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = a
		if strings.ContainsAny(a, " ;*$'\"") {
			quoted[i] = "'" + a + "'"
		}
	}
	fmt.Printf("\n   %s $ %s\n", m.Name(), strings.Join(quoted, " "))
}

func (t *transcript) output(out string) {
	out = strings.TrimRight(out, "\n")
	if out == "" {
		return
	}
	for line := range strings.Lines(out + "\n") {
		fmt.Print("   " + line)
	}
}

// eventually waits for check to come true and says how long that took.
func (t *transcript) eventually(limit time.Duration, what string, check func() error) {
	start := time.Now()
	lab.Eventually(t, limit, what, check)
	t.held(what, start)
}

// held says that something came true, and how long it took since start.
func (t *transcript) held(what string, start time.Time) {
	fmt.Printf(" ✓ %s (after %d ms)\n", what, time.Since(start).Milliseconds())
}
