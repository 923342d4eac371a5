package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// listing is how things of a kind are listed, by every -o.
type listing[T any] struct {
	fetch   func(cmd *cobra.Command, args []string) ([]T, error)
	columns []column[T]
	none    string // said in place of a table without lines; "": its head alone is shown

	above, below func(io.Writer) // if set: what a table has around its lines
	every        time.Duration   // between two looks of --watch; 0: watchEvery

	joined func([]T) []T  // if set: what a table has a line for, where several items are one to people
	called func(T) string // if set: what --watch calls an item that is gone, in the place of its identity
}

// column is one of a table.
type column[T any] struct {
	head  string
	cell  func(T) any // text, or painted text
	wide  bool        // with -o wide only
	moves bool        // it changes by itself, with time
}

// col is a column of every table, and wideCol one of the wide table.
func col[T any](head string, cell func(T) any) column[T] { return column[T]{head: head, cell: cell} }
func wideCol[T any](head string, cell func(T) any) column[T] {
	return column[T]{head: head, cell: cell, wide: true}
}

// listCommand has a command list things. It takes no arguments unless it says so.
func listCommand[T any](o *options, cmd *cobra.Command, l listing[T]) *cobra.Command {
	if cmd.Args == nil {
		cmd.Args = noArgs
	}
	again := cmd.Flags().BoolP("watch", "w", false, watchUsage)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *again {
			return l.watch(cmd, o, args)
		}
		return l.run(cmd, o, args)
	}
	return cmd
}

// ls has a command whose name is a plural, "nodes", listen to ls, to be put under the singular.
func ls(cmd *cobra.Command) *cobra.Command {
	plural, args, _ := strings.Cut(cmd.Use, " ")
	cmd.Use = strings.TrimSpace("ls " + args)
	cmd.Aliases = []string{"list"}
	cmd.Example = strings.ReplaceAll(cmd.Example, "shoal "+plural, "shoal "+strings.TrimSuffix(plural, "s")+" ls")
	return cmd
}

// ageCol tells how long ago something was.
func ageCol[T any](head string, since func(T) time.Time) column[T] {
	return column[T]{head: head, cell: func(item T) any { return age(since(item)) }, moves: true}
}

// run fetches and prints them.
func (l listing[T]) run(cmd *cobra.Command, o *options, args []string) error {
	items, err := l.items(cmd, o, args)
	if err != nil {
		return err
	}
	return o.show(cmd.OutOrStdout(), items, func(w io.Writer) { l.table(w, o, items) })
}

// items fetches what is to be printed, in a table or another form.
func (l listing[T]) items(cmd *cobra.Command, o *options, args []string) ([]T, error) {
	items, err := l.fetch(cmd, args)
	if l.joined != nil && o.format.tabular() {
		items = l.joined(items)
	}
	if items == nil {
		items = []T{}
	}
	return items, err
}

func (l listing[T]) table(w io.Writer, o *options, items []T) {
	if l.above != nil {
		l.above(w)
	}
	if len(items) == 0 && l.none != "" {
		fmt.Fprintln(w, l.none)
	} else {
		l.lines(w, o, items, true)
	}
	if l.below != nil {
		l.below(w)
	}
}

// lines is a table, with its head or without.
func (l listing[T]) lines(w io.Writer, o *options, items []T, head bool) {
	var heads []any
	var columns []column[T]
	for _, c := range l.columns {
		if !c.wide || o.wide() {
			columns, heads = append(columns, c), append(heads, painted{c.head, bold})
		}
	}
	if head {
		row(w, heads...)
	}
	for _, item := range items {
		var cells []any
		for _, c := range columns {
			cells = append(cells, c.cell(item))
		}
		row(w, cells...)
	}
}
