package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"shoal/api"
)

func tokensCommand(o *options) *cobra.Command {
	return listCommand(o, &cobra.Command{
		Use:     "tokens",
		Short:   "List the tokens that were made and not revoked",
		Example: "  sudo shoal tokens",
	}, listing[api.TokenInfo]{
		fetch: func(cmd *cobra.Command, _ []string) ([]api.TokenInfo, error) { return o.client().Tokens(cmd.Context()) },
		columns: []column[api.TokenInfo]{
			col("TOKEN", func(t api.TokenInfo) any { return t.ID }),
			col("USES LEFT", func(t api.TokenInfo) any { return t.Uses }),
			ageCol("MADE", func(t api.TokenInfo) time.Time { return t.Created }),
			col("EXPIRES", func(t api.TokenInfo) any { return t.Expires.Format(time.RFC3339) }),
		},
	})
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
	cmd.AddCommand(create, ls(tokensCommand(o)), &cobra.Command{
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
			return o.removed(cmd.OutOrStdout(), args[0])
		},
	})
	return cmd
}
