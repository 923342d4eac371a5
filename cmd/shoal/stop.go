package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

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
				fmt.Fprintf(w, "%s stopped after %s of draining, %d connections cut off\n", s.Container, time.Duration(s.Drained).Round(time.Millisecond), s.Held)
				for _, n := range s.Unasked {
					fmt.Fprintf(w, "host %s did not tell what it holds\n", n)
				}
			})
		},
	}
}
