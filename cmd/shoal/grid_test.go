package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"shoal/internal/printable"
)

func TestTheLastColumnIsWrappedToTheScreen(t *testing.T) {
	g := &grid{screen: screen{width: 40}}
	row(g, "NODE", "REASON")
	row(g, "host-a", "somebody else's firewall drops what the mesh needs")
	fmt.Fprintf(g, "b\t%s\n", strings.Repeat("x", 50))
	want := `NODE     REASON
host-a   somebody else's firewall drops
         what the mesh needs
b        xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
         xxxxxxxxxxxxxxxxxxx
`
	if got := g.text(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	g.screen.width = 0
	if lines := strings.Count(g.text(), "\n"); lines != 3 {
		t.Errorf("without a width there are %d lines, want 3", lines)
	}
}

func TestColoursAreTheScreensOwn(t *testing.T) {
	const hostile = "\x1b[31mred\x1b[0m"
	for _, colour := range []bool{false, true} {
		var out bytes.Buffer
		o := options{screen: screen{colour: colour}, format: format{kind: "table"}}
		if err := o.show(printable.NewWriter(&out), nil, func(w io.Writer) { row(w, painted{"ok", good}, hostile) }); err != nil {
			t.Fatal(err)
		}
		want := `ok   \u001b[31mred\u001b[0m` + "\n"
		if colour {
			want = strings.Replace(want, "ok", "\x1b[32mok\x1b[0m", 1)
		}
		if out.String() != want {
			t.Errorf("colour %v: %q, want %q", colour, out.String(), want)
		}
	}
}
