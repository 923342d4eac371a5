package fleet

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// workerName begins what a worker's process is called; its kind follows.
const workerName = "fleet-"

// IsWorker tells whether this process is to be a worker, and nothing else.
func IsWorker() bool { return len(os.Args) == 1 && strings.HasPrefix(os.Args[0], workerName) }

// RunWorker does what the driver asks until it ends, and returns the exit status.
func RunWorker() int {
	level := slog.LevelError
	if os.Getenv(verboseEnv) != "" {
		level = slog.LevelInfo
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	kinds := map[string]func() map[string]action{
		"store":      storeActions,
		partCatalog:  catalogActions,
		partLiveness: livenessActions,
	}
	actions, known := kinds[strings.TrimPrefix(os.Args[0], workerName)]
	if !known {
		fmt.Fprintln(os.Stderr, "fleet: no such worker:", os.Args[0])
		return 1
	}
	if err := serve(os.Stdin, os.Stdout, actions()); err != nil {
		fmt.Fprintln(os.Stderr, "fleet: a worker:", err)
		return 1
	}
	return 0
}

const verboseEnv = "SHOAL_FLEET_VERBOSE"

// worker is a process of the driver's.
type worker struct {
	kind string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

// startWorker starts this program again. The caller's thread is in the namespace that the
// worker is to be in, and lives on: the worker is killed when it ends.
func startWorker(kind string, verbose bool) (*worker, error) {
	w := &worker{kind: kind}
	w.cmd = &exec.Cmd{Path: "/proc/self/exe", Args: []string{workerName + kind}, Env: os.Environ(), Stderr: os.Stderr}
	if verbose {
		w.cmd.Env = append(w.cmd.Env, verboseEnv+"=1")
	}
	// A signal of the terminal is for the driver, which ends its workers.
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = bufio.NewReader(out)
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	return w, nil
}

// do asks for something, and decodes the answer's value into value if that is not nil.
func (w *worker) do(what string, args, value any) error {
	raw, err := json.Marshal(args)
	if err != nil {
		return err
	}
	if err := writeLine(w.in, request{what, raw}); err != nil {
		return fmt.Errorf("worker %s: %s: %w", w.kind, what, err)
	}
	var a answer
	if err := readLine(w.out, &a); err != nil {
		return fmt.Errorf("worker %s: %s: %w", w.kind, what, err)
	}
	if a.Error != "" {
		return fmt.Errorf("worker %s: %s: %s", w.kind, what, a.Error)
	}
	if value == nil || bytes.Equal(a.Value, []byte("null")) {
		return nil
	}
	return json.Unmarshal(a.Value, value)
}

// pid is its process's.
func (w *worker) pid() int { return w.cmd.Process.Pid }

// kill ends it at once.
func (w *worker) kill() {
	w.cmd.Process.Kill()
	w.cmd.Wait()
}
