package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"shoal/api"
	"shoal/model"
)

func explainCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "explain SERVICE|CONTAINER",
		Short: "Walk from a name to its tasks and say where it stops",
		Long: `Walk from a service's name over its VIP, mark and balancer to its tasks, or from
a container to its services, and say at which step it stops. Each step shows
what the kernel, the DNS server and the engine say now, not what the agent
believes. Exits with 1 where a step does not hold.`,
		Example: "  sudo shoal explain web\n  sudo shoal explain shop/web\n  sudo shoal explain mycontainer",
		Args:    exactlyOne("SERVICE or CONTAINER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := o.client().Explain(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return o.showSteps(cmd.OutOrStdout(), e)
		},
	}
}

// showSteps prints a walk, and fails where it stops.
func (o *options) showSteps(w io.Writer, e api.Explanation) error {
	err := o.show(w, e, func(w io.Writer) {
		for _, s := range e.Steps {
			mark := "ok"
			if !s.OK {
				mark = "STOP"
			}
			cells := []string{mark, cell(s.What)}
			if s.Node != "" {
				cells = []string{mark, cell(s.Node), cell(s.What)}
			}
			for i, line := range strings.Split(s.Evidence, "\n") {
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

func serviceCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Manage a service",
	}
	cmd.AddCommand(&cobra.Command{
		Use:     "rm SERVICE",
		Short:   "Forget a service that has no tasks, and give its VIP back",
		Example: "  sudo shoal service rm shop/web",
		Args:    exactlyOne("SERVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := model.ParseServiceID(args[0])
			if err != nil {
				return &usageError{err}
			}
			if err := o.client().RemoveService(cmd.Context(), id); err != nil {
				return err
			}
			return o.show(cmd.OutOrStdout(), map[string]string{"removed": id.String()}, func(w io.Writer) {
				fmt.Fprintln(w, id)
			})
		},
	})
	return cmd
}

func dockerConfigCommand(o *options) *cobra.Command {
	var c settings
	cmd := &cobra.Command{
		Use:   "docker-config",
		Short: "Print the lines of daemon.json that make shoal every container's resolver",
		Long: `Print the lines of /etc/docker/daemon.json that make shoal's DNS server the
resolver of every container, so that docker run needs no --dns and
--dns-search. A container's resolver then asks again after one second, not
after five, should the agent be restarted meanwhile, and asks for a bare name
in the zone first: on a user-defined network Docker would otherwise have
ndots:0, and answer a Compose service's name itself, with this host's
containers alone. The command takes the agent's settings, from the same
places.`,
		Example: "  shoal docker-config",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := c.resolve(cmd.Flags(), o); err != nil {
				return err
			}
			if err := c.Check(); err != nil {
				return err
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "  ")
			return enc.Encode(struct {
				DNS     []string `json:"dns"`
				Search  []string `json:"dns-search"`
				Options []string `json:"dns-opts"`
			}{[]string{c.DNS.String(), c.DNSPeers.String()}, []string{c.Zone}, []string{"timeout:1", "attempts:5", "ndots:1"}})
		},
	}
	c.declare(cmd.Flags())
	cmd.Flags().VisitAll(hide("dns", "dns-peers", "zone", "pool", "config"))
	return cmd
}
