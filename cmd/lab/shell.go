package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"shoal/lab"
	"shoal/lab/kernel"
)

func shellCommand(status *int) *cobra.Command {
	job := kernel.Job{Env: kernel.Environ(os.Environ()), Terminal: true}
	hosts := []string{"a"}
	c := &cobra.Command{
		Use:   "shell",
		Short: "Look around in a lab: a cluster of hosts with engines and agents, and a prompt",
		Example: `  lab shell --hosts a,b
  on a docker run -d -l shoal.service=web whoami
  on a shoal services`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if os.Getenv("LAB") != "" { // inside
				*status, err = shell(c.Context(), hosts)
				return err
			}
			if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err != nil {
				return errors.New("shell: standard input is no terminal; `lab run` needs none")
			}
			job.Args = append([]string{os.Args[0]}, os.Args[1:]...)
			if job.Args[0], err = os.Executable(); err != nil {
				return err
			}
			*status, err = kernel.Run(c.Context(), job, logf)
			return err
		},
	}
	kernelFlags(c, &job, 0)
	c.Flags().StringSliceVar(&hosts, "hosts", hosts, "the hosts' names")
	return c
}

// shell runs bash in a lab it makes.
func shell(ctx context.Context, names []string) (status int, err error) {
	l, err := lab.Open()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	// Without a test, what fails panics. Here that is for the person at the prompt to read.
	defer func() {
		if why := recover(); why != nil {
			err = errors.Join(err, fmt.Errorf("%v", why))
		}
	}()
	begun := time.Now()
	logf("starting %s", strings.Join(names, ", "))
	hosts := l.Cluster(names)
	logf("ready after %.1f s", time.Since(begun).Seconds())
	for _, m := range append([]*lab.Machine{l.Outside()}, machines(hosts)...) {
		fmt.Printf("  %-10s %v\n", m.Name(), m.Addr())
	}
	fmt.Printf("\nRun things with `on`:  on %s docker ps   on %[1]s shoal status   on outside bash\n", names[0])
	fmt.Printf("The one image is whoami. Files of the hosts are in %s. Leave with exit.\n\n", l.Dir())

	cmd := exec.CommandContext(ctx, "bash", "--norc", "-i")
	cmd.Env = append(os.Environ(), "PATH="+l.Bin()+":"+os.Getenv("PATH"), "LAB_DIR="+l.Dir(), `PS1=lab \w # `)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(cmd.Env, "HISTFILE="+filepath.Join(l.Dir(), "history"))
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func machines(hosts []*lab.Host) []*lab.Machine {
	var all []*lab.Machine
	for _, h := range hosts {
		all = append(all, &h.Machine)
	}
	return all
}
