package main

import (
	"github.com/spf13/cobra"

	"shoal/api"
)

func nodesCommand(o *options) *cobra.Command {
	return listCommand(o, &cobra.Command{
		Use:     "nodes",
		Short:   "List the hosts of the cluster, as this one sees them",
		Example: "  sudo shoal nodes\n  sudo shoal nodes -o wide",
	}, listing[api.NodeView]{
		fetch: func(cmd *cobra.Command, _ []string) ([]api.NodeView, error) { return o.client().Nodes(cmd.Context()) },
		columns: []column[api.NodeView]{
			col("NODE", func(n api.NodeView) any { return n.Name }),
			col("ADDRESS", func(n api.NodeView) any { return addrText(n.Addr) }),
			col("SUBNET", func(n api.NodeView) any { return subnetText(n) }),
			col("STATE", func(n api.NodeView) any {
				if n.Alive {
					return painted{"alive", good}
				}
				return painted{"dead", bad}
			}),
			col("STORE", func(n api.NodeView) any { return n.Role }),
			col("BY", func(n api.NodeView) any { return n.Transport }),
			col("TASKS", func(n api.NodeView) any { return n.Tasks }),
			wideCol("NUMBER", func(n api.NodeView) any { return n.Number }),
			column[api.NodeView]{head: "RTT", cell: func(n api.NodeView) any { return n.RTT }, wide: true, moves: true},
			col("WHY", func(n api.NodeView) any { return n.Reason }),
		},
	})
}

func subnetText(n api.NodeView) string {
	if !n.Subnet.IsValid() {
		return ""
	}
	return n.Subnet.String()
}

func nodeCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Manage the hosts of the cluster"}
	cmd.AddCommand(ls(nodesCommand(o)), &cobra.Command{
		Use:     "rm NODE",
		Short:   "Forget a host that is gone for good, and revoke its certificate",
		Example: "  sudo shoal node rm b",
		Args:    exactlyOne("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.client().RemoveNode(cmd.Context(), args[0]); err != nil {
				return err
			}
			return o.removed(cmd.OutOrStdout(), args[0])
		},
	})
	return cmd
}
