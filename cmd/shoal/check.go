package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"shoal/agent"
	"shoal/preflight"
)

func checkCommand(o *options) *cobra.Command {
	var c settings
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check whether shoal can run on this host",
		Long: `Check whether shoal can run on this host, before its agent does: kernel and
modules, engine, firewalls, ports, addresses, the managers of the network. Each
finding says what it means and what to do. Give it the flags that the agent
gets; it reads the same file of settings. The agent makes the same checks when
it starts.

It changes nothing, but that modules of the kernel are loaded which the data
plane needs. Exits with 0 where all is well, with 1 where there are warnings,
and with 2 where shoal cannot run.`,
		Example: "  sudo shoal check\n  sudo shoal check --data-plane nftables -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := c.resolve(cmd.Flags(), o); err != nil {
				return err
			}
			findings, err := agent.Check(cmd.Context(), c.Config)
			if err != nil {
				return err
			}
			err = o.show(cmd.OutOrStdout(), findings, func(w io.Writer) {
				row(w, "CHECK", "RESULT", "FOUND")
				for _, f := range findings {
					row(w, f.Check, f.Level, f.Found)
					if f.Do != "" {
						fmt.Fprintln(w, "\t\t  -> "+f.Do)
					}
				}
			})
			if err == nil {
				err = exitOf(preflight.Worst(findings))
			}
			return err
		},
	}
	c.declare(cmd.Flags())
	return cmd
}

// exitOf is how the command ends; nil: well.
func exitOf(worst preflight.Level) error {
	switch worst {
	case preflight.OK:
		return nil
	case preflight.Warning:
		return &exitError{1, "it can run on this host; there are warnings"}
	}
	return &exitError{2, "it cannot run on this host"}
}

// exitError ends the program with that status.
type exitError struct {
	status int
	why    string
}

func (e *exitError) Error() string { return e.why }
