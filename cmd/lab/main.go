// Command lab is the developer's tool of the test lab: a kernel with what shoal needs on any machine, and hosts on it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"shoal/lab/kernel"
	"shoal/lab/vm"
)

func main() {
	if kernel.IsInit() {
		kernel.Init()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	status := 0
	root := &cobra.Command{
		Use:           "lab",
		Short:         "Run commands, tests and hosts on a kernel that has what shoal needs",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(&status), shellCommand(&status), machineCommand(), reportCommand(&status))
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		status = 125
	}
	stop()
	os.Exit(status)
}

func runCommand(status *int) *cobra.Command {
	job := kernel.Job{Env: kernel.Environ(os.Environ())}
	var suite string
	c := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG...]",
		Short: "Run a command as root on a kernel that has what a data plane needs",
		Long: `Run a command as root on a kernel that has what a data plane of shoal needs: this one, in
namespaces of its own, or, for IPVS, User-Mode Linux. --plane auto takes the first of IPVS
and nftables that this kernel will do for, else IPVS in User-Mode Linux. The command has no
standard input. Its exit status is lab's own; 125 is the status of a command that could not
be run, or did not end in time.

--vm trixie takes the kernel of that suite of Debian, in a virtual machine that finds the
programs beside this one at the same paths. It has IPVS, nf_tables and BPF at once. Without
KVM it is emulated, ten times slower or more.`,
		Example: "  lab run --plane ipvs -- ipvsadm -ln\n  lab run --mem 2G --timeout 5m -- bin/e2e.test -test.v\n  lab run --vm trixie --plane ipvs -- bin/bench -part swarm -quick",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			job.Args = args
			if suite != "" {
				*status, err = runInMachine(c.Context(), vm.Suite(suite), job)
			} else {
				*status, err = kernel.Run(c.Context(), job, logf)
			}
			return err
		},
	}
	kernelFlags(c, &job, 30*time.Minute)
	c.Flags().StringVar(&suite, "vm", "", "run in a virtual machine of this suite of Debian (needs make deps-hosts)")
	return c
}

func kernelFlags(c *cobra.Command, job *kernel.Job, limit time.Duration) {
	c.Flags().BoolVar(&job.SocketOff, "socket-off", false, "agents lead no connections in connect(): the data plane balances all of them")
	c.Flags().StringVar(&job.Plane, "plane", kernel.Auto, "what the kernel must have: what this data plane needs (auto, ipvs, nftables)")
	c.Flags().StringVar(&job.Mem, "mem", "4G", "memory of User-Mode Linux or the virtual machine, where that is needed")
	c.Flags().DurationVar(&job.Timeout, "timeout", limit, "end the job after this time; 0: never")
}

func logf(format string, args ...any) { fmt.Fprintf(os.Stderr, "lab: "+format+"\n", args...) }
