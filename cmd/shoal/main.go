// Command shoal is a service mesh for plain Docker: the agent that runs on
// every host, and the command line that asks it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"shoal/agent"
	"shoal/api"
)

// version is set by the linker; a plain go build has the module's.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "shoal:", err)
	if errors.As(err, new(*usageError)) || errors.As(err, new(*agent.ConfigError)) {
		os.Exit(2)
	}
	os.Exit(1)
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
		agentCommand(&o), statusCommand(&o), servicesCommand(&o), tasksCommand(&o), problemsCommand(&o),
		explainCommand(&o), dnsCommand(&o), serviceCommand(&o), downCommand(&o), dockerConfigCommand(&o), versionCommand(&o),
		nodesCommand(&o), nodeCommand(&o), serverCommand(&o), tokenCommand(&o), stopCommand(&o), traceCommand(&o),
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
	c.Waiting = func(err error) { fmt.Fprintln(os.Stderr, "shoal:", err) }
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
