package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFailures(t *testing.T) {
	for name, c := range map[string]struct{ out, want string }{
		"all pass": {"=== RUN   TestA\n    a_test.go:1: a log\n--- PASS: TestA (0.1s)\nPASS\nok  \tshoal/a\t0.1s\n", ""},
		"with -v": {`=== RUN   TestA
    a_test.go:1: of a test that passes
--- PASS: TestA (0.1s)
=== RUN   TestB
    b_test.go:7: it is 1,
        want 2
    host.go:268: the end of n1's docker:
        1
        2
        3
        4
        5
        6
        7
        8
        9
        10
        11
        12
        13
--- FAIL: TestB (18.87s)
FAIL
lab: this kernel has no sctp, which was left out of: TestB
lab: run x: exit status 1
`, "failed: TestB\n    b_test.go:7: it is 1,\n        want 2\n    host.go:268: the end of n1's docker:\n        1\n        2\n        3\n    … 2 lines\n        6\n        7\n        8\n        9\n        10\n        11\n        12\n        13\nlab: run x: exit status 1\n"},
		"without -v": {`--- FAIL: TestA (0.00s)
    --- FAIL: TestA/x (0.00s)
        a_test.go:9: wrong
FAIL
FAIL	shoal/a	0.006s
ok  	shoal/b	0.1s
`, "failed: TestA\n        a_test.go:9: wrong\nFAIL\tshoal/a\t0.006s\n"},
		"a part of a test": {`=== RUN   TestA
=== RUN   TestA/one
    a_test.go:3: in one
=== RUN   TestA/two
--- FAIL: TestA (0.1s)
    --- FAIL: TestA/one (0.1s)
    --- PASS: TestA/two (0.1s)
`, "failed: TestA\n    a_test.go:3: in one\n"},
		"much is said": {"=== RUN   TestA\n" + strings.Repeat("    a_test.go:3: x\n", 20) + "--- FAIL: TestA (0.1s)\n",
			"failed: TestA\n" + strings.Repeat("    a_test.go:3: x\n", 5) + "    … 5 lines\n" + strings.Repeat("    a_test.go:3: x\n", 10)},
		"a verdict in between": {"=== RUN   TestA\n" + strings.Repeat("    a_test.go:3: x\n", 8) + "    a_test.go:5: FAILED: y\n        so\n" +
			strings.Repeat("    a_test.go:3: x\n", 12) + "--- FAIL: TestA (0.1s)\n",
			"failed: TestA\n" + strings.Repeat("    a_test.go:3: x\n", 5) + "    … 3 lines\n    a_test.go:5: FAILED: y\n        so\n    … 2 lines\n" +
				strings.Repeat("    a_test.go:3: x\n", 10)},
		"a test that passes elsewhere": {"=== RUN   TestA\n    a_test.go:3: x\n--- FAIL: TestA (0.1s)\n=== RUN   TestA\n    a_test.go:4: y\n--- PASS: TestA (0.1s)\n",
			"failed: TestA\n    a_test.go:3: x\n"},
		"no test": {"x/y.go:3:4: undefined: z\nmake: *** [Makefile:60: unit] Error 1\n", "x/y.go:3:4: undefined: z\nmake: *** [Makefile:60: unit] Error 1\n"},
		"a panic": {"=== RUN   TestA\npanic: oh\n\ngoroutine 7 [running]:\n", "panic: oh\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.want != "" {
				c.want = "\nWhat failed:\n" + c.want
			}
			var f failures
			for line := range strings.Lines(c.out) {
				f.read(strings.TrimSuffix(line, "\n"))
			}
			if got := f.String(); got != c.want {
				t.Errorf("%q\nwant %q", got, c.want)
			}
		})
	}
}

func TestReport(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		status int
		want   string
	}{
		"it passes":       {"echo vet: x; echo y >&2", 0, "vet: x\ny\n"},
		"it fails":        {"printf 'vet: x\nend'; exit 2", 2, "vet: x\nend\nWhat failed:\nvet: x\n"},
		"a signal":        {"kill -9 $$", 125, ""},
		"it is not there": {"", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			cmd := exec.Command("sh", "-c", c.script)
			if c.script == "" {
				cmd = exec.Command("/nonexistent")
			}
			status, err := report(cmd, &out)
			if status != c.status || out.String() != c.want || (err != nil) != (c.script == "") {
				t.Errorf("%d, %v, %q; want %d and %q", status, err, out.String(), c.status, c.want)
			}
		})
	}
}

// TestASignalEndsAllThatWasStarted, not only the command itself: else what it started would hold its output open.
func TestASignalEndsAllThatWasStarted(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	if err := syscall.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := reportCommand(new(int))
	c.SetArgs([]string{"--", "sh", "-c", `sh -c 'echo >"$0"; exec sleep 30' "$0"; true`, started})
	ended := make(chan error, 1)
	go func() { ended <- c.ExecuteContext(ctx) }()
	if _, err := os.ReadFile(started); err != nil { // waits for it
		t.Fatal(err)
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("what the command started goes on")
	}
}
