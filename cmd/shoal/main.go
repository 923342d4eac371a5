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
	"slices"
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

func main() {
	if store.IsChild() {
		os.Exit(store.RunChild(cluster.RevokedBy))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	args, plugin := asPlugin(os.Args)
	code := run(ctx, args, os.Stdout, plugin)
	stop()
	os.Exit(code)
}

// run is the command with these arguments. It returns its exit status.
func run(ctx context.Context, args []string, stdout io.Writer, plugin bool) int {
	if plugin && slices.Equal(args, []string{pluginMetadata}) {
		if err := printMetadata(stdout); err != nil {
			return 1
		}
		return 0
	}
	cmd := root(screenOf(stdout))
	if plugin {
		beDocker(cmd)
	}
	cmd.SetArgs(args)
	cmd.SetOut(printable.NewWriter(stdout))
	cmd.SetErr(stderr)
	ran, err := cmd.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	wrongName := errors.Is(err, api.ErrNotFound) && ran.GroupID != groupExplain // to explain, it is a finding
	hint := ""
	if wrongName {
		hint = suggestName(ctx, ran)
	}
	fmt.Fprintln(stderr, "shoal:", err.Error()+hint)
	if exit := (*exitError)(nil); errors.As(err, &exit) {
		return exit.status
	}
	if wrongName || errors.Is(err, api.ErrBadRequest) || errors.As(err, new(*usageError)) || errors.As(err, new(*agent.ConfigError)) {
		return 2
	}
	return 1
}

// usageError is a command line or a setting that cannot work; the command exits
// with 2 on it, as it does on an [agent.ConfigError].
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// groups of commands, as the help shows them.
const (
	groupHost    = "host"
	groupLook    = "look"
	groupExplain = "explain"
	groupManage  = "manage"
	groupOther   = "other"
)

func root(s screen) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shoal",
		Short: "A service mesh for plain Docker, by labels on docker run",
		Long: `shoal gives services on plain Docker a name, a stable virtual address and a
load balancer in the kernel. Run the agent on a host, label containers with
shoal.service=NAME, and reach them by that name.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       buildVersion(),
	}
	o := options{screen: s}
	cmd.PersistentFlags().StringVar(&o.runDir, "run-dir", api.DefaultRunDir, "folder of the agent's socket")
	cmd.PersistentFlags().StringVarP(&o.output, "output", "o", "table", "`FORMAT`: "+formats)
	cmd.SetFlagErrorFunc(flagError)
	cmd.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		var err error
		if c.Flags().Lookup("state-dir") == nil { // else it takes the agent's settings, which do both
			o.locate(c.Flags())
			if err = checkVariables(os.Environ()); err != nil {
				return &usageError{err}
			}
		}
		o.format, err = parseFormat(o.output)
		return err
	}
	add := func(group, title string, commands ...*cobra.Command) {
		cmd.AddGroup(&cobra.Group{ID: group, Title: title})
		for _, c := range commands {
			c.GroupID = group
		}
		cmd.AddCommand(commands...)
	}
	add(groupHost, "This host:", agentCommand(&o), checkCommand(&o), dockerConfigCommand(&o), downCommand(&o))
	add(groupLook, "Look:", statusCommand(&o), servicesCommand(&o), tasksCommand(&o), nodesCommand(&o), tokensCommand(&o), problemsCommand(&o), eventsCommand(&o), topCommand(&o), settingsCommand(&o), uiCommand(&o))
	add(groupExplain, "Find out why:", explainCommand(&o), traceCommand(&o), dnsCommand(&o), bugreportCommand(&o))
	add(groupManage, "Manage:", serviceCommand(&o), taskCommand(&o), nodeCommand(&o), serverCommand(&o), tokenCommand(&o), stopCommand(&o), storeCommand(&o))
	add(groupOther, "Other:", versionCommand(&o), manCommand())
	cmd.SetHelpCommandGroupID(groupOther)
	cmd.SetCompletionCommandGroupID(groupOther)
	foldHelp(cmd)
	wantCommand(cmd)
	completeAll(&o, cmd, "shoal")
	return cmd
}

// options are what every command takes.
type options struct {
	runDir string
	config string // the file of settings, of the commands that have a flag for it; "": none was named
	output string
	format format
	screen screen
}

// client asks the agent, and says so on standard error when it has to wait for
// one that starts.
func (o *options) client() *api.Client {
	c := api.NewClient(api.Socket(o.runDir))
	c.Waiting = func(err error) { fmt.Fprintln(stderr, "shoal:", err) }
	return c
}
