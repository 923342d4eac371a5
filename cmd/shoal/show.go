package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"shoal/internal/printable"
)

// show prints v as -o says: by table, which writes lines whose cells tabulators
// separate, see [grid], or in a form for programs.
func (o *options) show(w io.Writer, v any, table func(io.Writer)) error {
	if !o.format.tabular() {
		return o.format.encode(w, v)
	}
	g := &grid{screen: o.screen}
	table(g)
	if p, ok := w.(*printable.Writer); ok && o.screen.colour {
		w = p.Unescaped() // the grid has escaped all but its colours
	}
	_, err := io.WriteString(w, g.text())
	return err
}

// wide tells whether tables show all that there is.
func (o *options) wide() bool { return o.format.kind == "wide" }

// removed prints the name of what is no more.
func (o *options) removed(w io.Writer, name string) error {
	return o.show(w, changed{Removed: name}, func(w io.Writer) { fmt.Fprintln(w, name) })
}

// changed is the result of a command that changes one thing.
type changed struct {
	Removed string `json:"removed,omitempty"`
}

// Identity is what was changed.
func (c changed) Identity() string { return c.Removed }

// age is how long ago t was, in the manner of docker ps.
func age(t time.Time) string {
	d := time.Since(t)
	switch {
	case t.IsZero():
		return "-"
	case d < 2*time.Minute:
		return strconv.Itoa(max(0, int(d.Seconds()))) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

// short is a container's ID in the length docker prints.
func short(id string) string { return id[:min(12, len(id))] }
