package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shoal/agent"
	"shoal/api"
)

func serverCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Choose the hosts that serve the store",
		Long: `Choose the hosts that serve the embedded etcd. Three of them go on when one is
lost; one or two do not. Without the store every host goes on with what it
knows. Three are chosen by themselves, where there are as many hosts, unless
the agents run with --servers manual; promote adds further ones. Of no more than
three, demote is refused then: another would have to be chosen in its place.

A change takes some seconds, and up to two minutes while the cluster settles.
It is made by the host itself: interrupting the command does not stop it.`,
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
		Short: "Make a new store of what this host knows",
		Long: `Make a new store of what this host knew when its agent last ran: hosts and
subnets, services with their VIPs, published ports. It is for a cluster whose
servers have all lost the store, or two of three, and that has no backup of it.
It is refused where a server of the store answers.

The agent must not run. Started afterwards, it is the only one that serves the
store and tells the other hosts, which follow by themselves. Where this host did
not hold the key of the cluster's CA, there is a new CA, and a new token for
hosts that join. Run it on one host only.`,
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
