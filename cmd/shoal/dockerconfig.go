package main

import (
	"encoding/json"

	"github.com/spf13/cobra"
)

func dockerConfigCommand(o *options) *cobra.Command {
	var c settings
	cmd := &cobra.Command{
		Use:   "docker-config",
		Short: "Print what makes Docker use shoal's DNS server",
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
