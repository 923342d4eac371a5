package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"shoal/agent"
	"shoal/api"

	"github.com/spf13/cobra"
)

func nodesCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "nodes",
		Short:   "List the hosts of the cluster, as this one sees them",
		Example: "  sudo shoal nodes",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			nodes, err := o.client().Nodes(cmd.Context())
			if err != nil {
				return err
			}
			return o.show(cmd.OutOrStdout(), nodes, func(w io.Writer) {
				row(w, "NODE", "ADDRESS", "SUBNET", "STATE", "STORE", "BY", "TASKS", "WHY")
				for _, n := range nodes {
					state := "alive"
					if !n.Alive {
						state = "dead"
					}
					subnet := "-"
					if n.Subnet.IsValid() {
						subnet = n.Subnet.String()
					}
					row(w, n.Name, n.Addr, subnet, state, n.Role, n.Transport, n.Tasks, n.Reason)
				}
			})
		},
	}
}

func nodeCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Manage a host of the cluster"}
	cmd.AddCommand(&cobra.Command{
		Use:     "rm NODE",
		Short:   "Forget a host that is gone for good, and take its certificate back",
		Example: "  sudo shoal node rm b",
		Args:    exactlyOne("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.client().RemoveNode(cmd.Context(), args[0]); err != nil {
				return err
			}
			return o.show(cmd.OutOrStdout(), map[string]string{"removed": args[0]}, func(w io.Writer) {
				fmt.Fprintln(w, args[0])
			})
		},
	})
	return cmd
}

func serverCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Choose the hosts that serve the store",
		Long: `Choose the hosts that serve the embedded etcd. Three of them go on when one is
lost; one or two do not. Without the store every host goes on with what it knows.
Three are chosen by themselves, where there are as many hosts, unless the agents
run with --servers manual; promote adds further ones.

A change takes some seconds, and up to two minutes while the cluster settles. It
is made by the host itself: interrupting the command does not stop it.`,
	}
	role := func(use, to, short string) *cobra.Command {
		return &cobra.Command{
			Use:     use + " NODE",
			Short:   short,
			Example: "  sudo shoal server " + use + " b",
			Args:    exactlyOne("NODE"),
			RunE: func(cmd *cobra.Command, args []string) error {
				advice, err := changeRole(cmd.Context(), o.client(), cmd.ErrOrStderr(), args[0], to, 2*time.Second)
				if err != nil {
					return err
				}
				return o.show(cmd.OutOrStdout(), map[string]string{"node": args[0], "role": to, "advice": advice}, func(w io.Writer) {
					fmt.Fprintf(w, "%s is a %s of the store\n", args[0], to)
					if advice != "" {
						fmt.Fprintln(w, advice)
					}
				})
			},
		}
	}
	cmd.AddCommand(
		role("promote", "server", "Have a host serve the store, with a vote"),
		role("demote", "client", "Have a host serve the store no more"),
		recoverCommand(o),
	)
	return cmd
}

func recoverCommand(o *options) *cobra.Command {
	var c settings
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Make a new store of what this host knows, where the cluster has lost its own",
		Long: `Make a new store of what this host knew when its agent last ran: hosts and subnets,
services with their VIPs, published ports. It is for a cluster whose servers have
all lost the store, or two of three, and that has no backup of it. It is refused
where a server of the store answers.

The agent must not run. Started afterwards, it is the only one that serves the store
and tells the other hosts, which follow by themselves. Where this host did not
hold the key of the cluster's CA, there is a new CA, and a new token for hosts
that join. Run it on one host only.`,
		Example: "  sudo systemctl stop shoal\n  sudo shoal server recover\n  sudo systemctl start shoal",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := c.resolve(cmd.Flags(), o); err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			s, err := agent.Recover(cmd.Context(), c.Config, log)
			if err != nil {
				return fmt.Errorf("recover the store: %w", err)
			}
			return o.show(cmd.OutOrStdout(), s, func(w io.Writer) {
				fmt.Fprintf(w, "the new store has what this host knew on %s: hosts %s; services: %d; published ports: %d\nstart the agent now; the other hosts follow by themselves\n",
					s.Saved.Local().Format("2006-01-02 15:04:05"), strings.Join(s.Hosts, ", "), s.Services, s.Ports)
			})
		},
	}
	c.declare(cmd.Flags())
	cmd.Flags().VisitAll(hide("node", "state-dir", "config"))
	return cmd
}

// changeRole has a host's role in the store changed, and tells on w how far that
// is for as long as it lasts.
func changeRole(ctx context.Context, c *api.Client, w io.Writer, node, to string, every time.Duration) (advice string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		advice, err = c.SetRole(ctx, node, to)
	}()
	start, said := time.Now(), ""
	for {
		select {
		case <-done:
			if err != nil && ctx.Err() != nil {
				err = fmt.Errorf("interrupted; if %s began to change it goes on by itself: see shoal nodes", node)
			}
			return advice, err
		case <-time.After(every):
			said = tellRole(ctx, c, w, node, to, said, time.Since(start))
		}
	}
}

// tellRole says what a host is as yet, where that is another thing than was said.
func tellRole(ctx context.Context, c *api.Client, w io.Writer, node, to, said string, since time.Duration) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	is := "not known to this host just now" // while the store has no leader
	if nodes, err := c.Nodes(ctx); err == nil {
		for _, n := range nodes {
			if n.Name == node && n.Role == "learner" {
				is = "a learner, which catches up until it gets a vote"
			} else if n.Name == node {
				is = "a " + n.Role
			}
		}
	}
	if is != said && ctx.Err() == nil {
		fmt.Fprintf(w, "%s is to be a %s of the store; after %s it is %s\n", node, to, since.Round(time.Second), is)
	}
	return is
}

func tokenCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Manage the tokens by which hosts join"}
	var ttl time.Duration
	var uses int
	create := &cobra.Command{
		Use:   "create",
		Short: "Make a join token and print the command that uses it",
		Long: `Make a join token and print the command that uses it. A lone host listens on its
address, TCP 7947, while there is a token to join by. The first host that joins
has it listen for good: on TCP 7947 (joining, agents), 7946 with UDP (liveness),
2379 and 2380 (etcd), all by the certificates of the cluster.`,
		Example: "  sudo shoal token create\n  sudo shoal token create --uses 10 --ttl 24h",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := o.client().CreateToken(cmd.Context(), ttl, uses)
			if err != nil {
				return err
			}
			return o.show(cmd.OutOrStdout(), t, func(w io.Writer) { fmt.Fprintln(w, t.Command) })
		},
	}
	create.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is good, up to 720h")
	create.Flags().IntVar(&uses, "uses", 1, "how many hosts can join by it, up to 1000")
	cmd.AddCommand(create, &cobra.Command{
		Use:     "ls",
		Short:   "List the tokens that were made and not removed",
		Example: "  sudo shoal token ls",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tokens, err := o.client().Tokens(cmd.Context())
			if err != nil {
				return err
			}
			return o.show(cmd.OutOrStdout(), tokens, func(w io.Writer) {
				row(w, "TOKEN", "USES LEFT", "MADE", "EXPIRES")
				for _, t := range tokens {
					row(w, t.ID, t.Uses, age(t.Created), t.Expires.Format(time.RFC3339))
				}
			})
		},
	}, &cobra.Command{
		Use:   "rm TOKEN",
		Short: "Revoke a token: no more hosts join by it",
		Long: `Revoke a token, by its ID, see "shoal token ls", or the beginning of it: no more
hosts join by it. Those that have joined stay.`,
		Example: "  sudo shoal token rm 3f2a",
		Args:    exactlyOne("TOKEN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.client().RemoveToken(cmd.Context(), args[0]); err != nil {
				return err
			}
			return o.show(cmd.OutOrStdout(), map[string]string{"revoked": args[0]}, func(w io.Writer) {
				fmt.Fprintln(w, args[0])
			})
		},
	})
	return cmd
}

func stopCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "stop CONTAINER",
		Short: "Let a container finish what it holds, then stop it",
		Long: `Take a container of this host out of every host's rotation, wait until no host
holds a connection to it, or until its shoal.drain is over, and stop it. docker
stop alone signals it at once.`,
		Example: "  sudo shoal stop web-1",
		Args:    exactlyOne("CONTAINER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := o.client().Stop(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return o.show(cmd.OutOrStdout(), s, func(w io.Writer) {
				fmt.Fprintf(w, "%s stopped after %s of draining, %d connections cut off\n", s.Container, s.Drained.Round(time.Millisecond), s.Held)
				for _, n := range s.Unasked {
					fmt.Fprintf(w, "host %s did not tell what it holds\n", n)
				}
			})
		},
	}
}

func traceCommand(o *options) *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "trace NAME|HOST:PORT[/PROTO]",
		Short: "Follow a packet to a name or a published port, hop by hop",
		Long: `Follow a packet to a service's name, or to a published port of any host of the
cluster, hop by hop: to the balancer, on to the hosts of the tasks that it may
choose, to their containers, and by which address a task sees the client of a
port. Each step shows what the kernel, the DNS server and the engine of its host
say now, asked of the agent there. A NAME is what a container would ask for (web,
web.eshop, tasks.web, _http._tcp.web), or stack/name; a HOST is a name or an
address of shoal nodes, and none means this one. Exits with 1 where a step does
not hold, or a host's agent does not answer.`,
		Example: "  sudo shoal trace --from mycontainer web\n  sudo shoal trace --from 203.0.113.9 otherhost:8080\n  sudo shoal trace :53/udp",
		Args:    exactlyOne("NAME or HOST:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := o.client().Trace(cmd.Context(), from, args[0])
			if err != nil {
				return err
			}
			return o.showSteps(cmd.OutOrStdout(), e)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "who sends: a container of any host, by name, ID or address, or any other address (default: this host)")
	return cmd
}
