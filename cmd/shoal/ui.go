package main

import (
	"encoding/json"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"
)

func uiCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "ui",
		Short: "Print the address of the cluster's web page, with its token",
		Long: `Print the address of the cluster's web page, with its token. The agent serves
the page where --ui-addr names an address. Whoever has the token may look;
nobody can change anything there.`,
		Example: "  sudo shoal ui",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := o.client().UI(cmd.Context())
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if o.output == "json" {
				return json.NewEncoder(out).Encode(u)
			}
			fmt.Fprintln(out, u.URL)
			if u.Fingerprint != "" {
				fmt.Fprintf(out, "\nThe certificate's SHA-256 fingerprint:\n%s\n", u.Fingerprint)
			}
			if at, err := url.Parse(u.URL); err == nil && u.Local {
				fmt.Fprintf(out, "\nFrom another machine, through SSH:\nssh -L %s:%s root@THIS-HOST\n", at.Port(), at.Host)
			}
			return nil
		},
	}
}
