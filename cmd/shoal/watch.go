package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shoal/internal/printable"
)

// The time between two looks of --watch. Where a look takes long, because many hosts
// are asked, it is so many times as long.
const (
	watchEvery = time.Second
	watchShare = 9
)

const (
	clearScreen = "\x1b[H\x1b[2J\x1b[3J"
	watchUsage  = "go on until interrupted: draw anew on a terminal, else add a line for what changed"
)

// redraw shows text in the place of what the screen shows.
func (o *options) redraw(w io.Writer, text string) {
	if p, ok := w.(*printable.Writer); ok {
		w = p.Unescaped() // the grid has escaped all but its colours
	}
	io.WriteString(w, clearScreen+text)
}

// watch lists again and again. Errors later than at first are told, once each: an
// agent may be restarted meanwhile.
func (l listing[T]) watch(cmd *cobra.Command, o *options, args []string) error {
	began := time.Now()
	items, err := l.items(cmd, o, args)
	if err != nil {
		return err
	}
	var seen map[string]bool
	for said := ""; ; {
		if err == nil {
			said = ""
			if seen, err = l.showChanges(cmd.OutOrStdout(), o, items, seen); err != nil {
				return err
			}
		} else if text := err.Error(); text != said {
			said = text
			fmt.Fprintln(stderr, "shoal:", text)
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-time.After(max(cmp.Or(l.every, watchEvery), watchShare*time.Since(began))):
		}
		began = time.Now()
		if items, err = l.items(cmd, o, args); cmd.Context().Err() != nil {
			return nil
		}
	}
}

// showChanges draws the list anew, or adds what is not as it was seen. It returns
// what is seen now.
func (l listing[T]) showChanges(w io.Writer, o *options, items []T, before map[string]bool) (map[string]bool, error) {
	if o.screen.terminal && o.format.tabular() {
		g := &grid{screen: o.screen}
		l.table(g, o, items)
		o.redraw(w, g.text())
		return nil, nil
	}
	seen := map[string]bool{}
	changed := []T{}
	for _, item := range items {
		key := l.key(item)
		seen[key] = true
		if !before[key] {
			changed = append(changed, item)
		}
	}
	for key := range before {
		if name, _, _ := strings.Cut(key, "\t"); !seen[key] && o.format.tabular() && !hasName(seen, name) {
			fmt.Fprintln(w, printable.Line(name), "is gone")
		}
	}
	if len(changed) == 0 && before != nil {
		return seen, nil
	}
	return seen, o.show(w, changed, func(w io.Writer) {
		if before == nil {
			l.table(w, o, changed)
			return
		}
		l.lines(w, o, changed, len(before) == 0 && l.none != "") // no head was there yet
	})
}

func hasName(seen map[string]bool, name string) bool {
	for key := range seen {
		if strings.HasPrefix(key, name+"\t") {
			return true
		}
	}
	return false
}

// key is what is compared of an item: all columns but those that change by
// themselves.
func (l listing[T]) key(item T) string {
	var b strings.Builder
	if l.called != nil {
		b.WriteString(l.called(item))
	} else if object, ok := any(item).(identified); ok {
		b.WriteString(object.Identity())
	}
	for _, c := range l.columns {
		if !c.moves {
			fmt.Fprint(&b, "\t", c.cell(item))
		}
	}
	return b.String()
}
