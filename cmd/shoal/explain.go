package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"shoal/api"
)

const whatIsNamed = `Whatever names a thing may be written: web, web.shop, shop/web, the name of a
container or its ID, a VIP or a task's address, web:80, and HOST:PORT or :PORT
of a published port.`

func explainCommand(o *options) *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "explain SERVICE|CONTAINER|ADDRESS|[HOST]:PORT",
		Short: "Say why a service is reached or not, and what to do",
		Long: `Say why a service is reached or not, and what to do: first each of its tasks,
with its state and the reason, whether its process listens where it should, and
its published ports; then the way from its name to its tasks, a line a step.
Each is what the kernel, the DNS server and the engines say now, not what the
agent believes. Exits with 1 where a step does not hold.

` + whatIsNamed,
		Example: "  sudo shoal explain web\n  sudo shoal explain shop/web\n  sudo shoal explain mycontainer\n  sudo shoal explain otherhost:8080 -v",
		Args:    exactlyOne("SERVICE, CONTAINER, ADDRESS or [HOST]:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := o.client().Explain(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return o.showSteps(cmd.OutOrStdout(), e, verbose)
		},
	}
	verboseFlag(cmd, &verbose)
	return cmd
}

func traceCommand(o *options) *cobra.Command {
	var from string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "trace NAME|ADDRESS|[HOST]:PORT[/PROTO]",
		Short: "Follow a packet from a client to a service, hop by hop",
		Long: `Follow a packet to a service's name, or to a published port of any host of the
cluster, hop by hop: what the client's own resolver and routes say, who leads
the connection (connect() or the data plane), the hosts of the tasks that it may
choose, their containers, and by which address a task sees the client of a
port. Each step shows what the kernel, the DNS server and the engine of its host
say now, asked of the agent there. Exits with 1 where a step does not hold, or a
host's agent does not answer.

` + whatIsNamed + ` A name may be any that a container would
ask for, tasks.web and _http._tcp.web too.`,
		Example: "  sudo shoal trace --from mycontainer web:80\n  sudo shoal trace --from 203.0.113.9 otherhost:8080\n  sudo shoal trace :53/udp",
		Args:    exactlyOne("NAME or HOST:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := o.client().Trace(cmd.Context(), from, args[0])
			if err != nil {
				return err
			}
			return o.showSteps(cmd.OutOrStdout(), e, verbose)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "who sends: a container of any host, by name, ID or address, a host, by its name, or any other address (default: this host)")
	verboseFlag(cmd, &verbose)
	return cmd
}

func verboseFlag(cmd *cobra.Command, verbose *bool) {
	cmd.Flags().BoolVarP(verbose, "verbose", "v", false, "show the kernel's evidence too")
}

// showSteps prints a walk, and fails where it stops. Of a step that holds it shows
// the first line, and nothing of one that is the kernel's evidence, unless all is asked for.
func (o *options) showSteps(w io.Writer, e api.Explanation, all bool) error {
	err := o.show(w, e, func(w io.Writer) {
		for _, s := range e.Steps {
			if s.Kernel && s.OK && !all {
				continue
			}
			mark := "ok"
			if !s.OK {
				mark = "STOP"
			}
			cells := []string{mark, cell(s.What)}
			if s.Node != "" {
				cells = []string{mark, cell(s.Node), cell(s.What)}
			}
			lines := strings.Split(s.Evidence, "\n")
			if s.OK && !all {
				lines = lines[:1]
			}
			if s.Remedy != "" {
				lines = append(lines, "do: "+s.Remedy)
			}
			for i, line := range lines {
				if i > 0 {
					clear(cells)
				}
				fmt.Fprintln(w, strings.Join(append(cells, cell(line)), "\t"))
			}
		}
	})
	if err == nil && !e.OK {
		err = fmt.Errorf("%s: %s", e.What, e.Verdict)
	}
	return err
}

func dnsCommand(o *options) *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:     "dns NAME",
		Short:   "Show what the DNS server answers on a name, and why",
		Example: "  sudo shoal dns web\n  sudo shoal dns --from mycontainer tasks.web",
		Args:    exactlyOne("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := o.client().Lookup(cmd.Context(), args[0], from)
			if err != nil {
				return err
			}
			return o.show(cmd.OutOrStdout(), l, func(w io.Writer) {
				for _, a := range l.Answers {
					fmt.Fprintln(w, a)
				}
				fmt.Fprintln(w, l.Reason)
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the container that asks, by name, ID or address (default: a process of this host)")
	return cmd
}
