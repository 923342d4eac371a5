// Command shoal is a service mesh for plain Docker: the agent that runs on
// every host, and the command line that asks it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"shoal/agent"
	"shoal/api"
	"shoal/cluster"
	"shoal/internal/printable"
	"shoal/store"
)

// stderr is standard error. Like standard output it is written to through a
// [printable.Writer] and in no other way: what containers, processes and hosts are
// called is theirs to choose, and shall not reach the terminal as it is.
var stderr = printable.NewWriter(os.Stderr)

// version is set by the linker; a plain go build has the module's.
var version string

func main() {
	if store.IsChild() {
		os.Exit(store.RunChild(cluster.RevokedBy))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout)
	stop()
	os.Exit(code)
}

// run is the command with these arguments. It returns its exit status.
func run(ctx context.Context, args []string, stdout io.Writer) int {
	cmd := root()
	cmd.SetArgs(args)
	cmd.SetOut(printable.NewWriter(stdout))
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "shoal:", err)
	if exit := (*exitError)(nil); errors.As(err, &exit) {
		os.Exit(exit.status)
	}
	if errors.As(err, new(*usageError)) || errors.As(err, new(*agent.ConfigError)) {
		return 2
	}
	return 1
}

// usageError is a command line or a setting that cannot work; the command exits
// with 2 on it, as it does on an [agent.ConfigError].
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shoal",
		Short: "A service mesh for plain Docker: DNS, VIPs and IPVS by labels on docker run",
		Long: `shoal gives services on plain Docker a name, a stable virtual address and a
load balancer in the kernel. Run the agent on a host, label containers with
shoal.service=NAME, and reach them by that name.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       buildVersion(),
	}
	var o options
	cmd.PersistentFlags().StringVar(&o.runDir, "run-dir", api.DefaultRunDir, "folder of the agent's socket")
	cmd.PersistentFlags().StringVarP(&o.output, "output", "o", "table", "table or json")
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w; see %s --help", err, c.CommandPath())}
	})
	cmd.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		o.locate(c.Flags())
		if o.output != "table" && o.output != "json" {
			return &usageError{fmt.Errorf("--output %q: use table or json", o.output)}
		}
		return nil
	}
	cmd.AddCommand(
		agentCommand(&o), checkCommand(&o), statusCommand(&o), servicesCommand(&o), tasksCommand(&o), problemsCommand(&o),
		explainCommand(&o), dnsCommand(&o), serviceCommand(&o), downCommand(&o), dockerConfigCommand(&o), versionCommand(&o),
		nodesCommand(&o), nodeCommand(&o), serverCommand(&o), tokenCommand(&o), stopCommand(&o), traceCommand(&o), storeCommand(&o),
	)
	return cmd
}

// options are what every command takes.
type options struct {
	runDir string
	output string
}

// client asks the agent, and says so on standard error when it has to wait for
// one that starts.
func (o *options) client() *api.Client {
	c := api.NewClient(api.Socket(o.runDir))
	c.Waiting = func(err error) { fmt.Fprintln(stderr, "shoal:", err) }
	return c
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
