package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"

	"shoal/lab/kernel"
	"shoal/lab/vm"
)

// runInMachine runs a job in a virtual machine of that suite and returns its exit status. The machine has this program's
// folder at the same path, and nothing else of this machine.
func runInMachine(ctx context.Context, suite vm.Suite, job kernel.Job) (status int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("a virtual machine is made with namespaces and mounts: run it as root")
	}
	if job.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, job.Timeout, fmt.Errorf("the job did not end within %v", job.Timeout))
		defer cancel()
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	memory, err := units.RAMInBytes(job.Mem)
	if err != nil {
		return 0, fmt.Errorf("--mem %s: %w", job.Mem, err)
	}
	mirror, err := vm.Mirror()
	if err != nil {
		return 0, err
	}
	bin := filepath.Dir(self)
	image, err := suite.Image(ctx, filepath.Join(bin, "images"), mirror, logf)
	if err != nil {
		return 0, err
	}
	temporary, err := os.MkdirTemp(bin, "vm-") // links reach no further than the file system
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(temporary)
	gift := filepath.Join(temporary, "bin")
	if err := linkPrograms(bin, gift); err != nil {
		return 0, err
	}
	wire, err := vm.NewWire()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, wire.Close()) }()
	m, err := vm.Start(vm.Config{Name: "lab", Number: 11, Image: image, Wire: wire, Dir: filepath.Join(temporary, "machine"), Give: gift, Memory: int(memory >> 20)})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	logf("a virtual machine of %s boots", suite)
	if err := m.Await(ctx); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, m.Console())
	}
	logf("%s has booted", suite)
	err = m.Attach(ctx, machineScript(bin, dir, job), nil, os.Stdout, os.Stderr)
	var exit *vm.ExitError
	if errors.As(err, &exit) {
		return exit.Status, nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return 0, err
}

// machineScript runs the job in the machine. The machine's own engine is not wanted: the lab starts one for each host.
func machineScript(bin, dir string, job kernel.Job) string {
	run := []string{"env"}
	for _, v := range job.Env {
		if name, _, _ := strings.Cut(v, "="); name != "PATH" && name != "HOME" && name != "USER" {
			run = append(run, v)
		}
	}
	run = append(run, filepath.Join(bin, "lab"), "run", "--timeout", "0", "--plane", job.Plane, fmt.Sprintf("--socket-off=%t", job.SocketOff), "--")
	return fmt.Sprintf("systemctl stop docker.service docker.socket && mkdir -p %[1]s %[2]s && mount -o ro %[3]s %[1]s && cd %[2]s && exec %[4]s",
		quoted(bin), quoted(dir), vm.Given, quoted(append(run, job.Args...)...))
}

// quoted writes words for a shell.
func quoted(words ...string) string {
	for i, w := range words {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}

// linkPrograms makes the folder to, with the files of from that are programs or what they load.
func linkPrograms(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() && info.Mode()&0o100 != 0 {
			if err := os.Link(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
