package main

import (
	"github.com/spf13/cobra"

	"shoal/lab"
)

// machineCommand is what the lab starts as the first process of each machine; nobody else has a use for it.
func machineCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "machine NAME DIR",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE:   func(_ *cobra.Command, args []string) error { return lab.MachineInit(args[0], args[1]) },
	}
}
