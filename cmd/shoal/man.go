package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCommand writes the manual pages. It is for those who make packages.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages, one a command, into a folder",
		Hidden: true,
		Args:   exactlyOne("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			root.DisableAutoGenTag = true // it has a date
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "shoal", Manual: "shoal"}, args[0])
		},
	}
}
