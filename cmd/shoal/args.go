package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// noArgs and atMostOne are cobra's, with exit code 2 and words of what to do.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Errorf("%s takes no %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())}
	}
	return nil
}

func atMostOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return &usageError{fmt.Errorf("%s takes one %s; see %s --help", cmd.CommandPath(), name, cmd.CommandPath())}
		}
		return nil
	}
}

func exactlyOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return &usageError{fmt.Errorf("%s wants one %s; see %s --help", cmd.CommandPath(), name, cmd.CommandPath())}
		}
		return nil
	}
}
