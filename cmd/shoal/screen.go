package main

import (
	"io"
	"os"

	"golang.org/x/term"
)

// screen is what is known of where standard output goes.
type screen struct {
	width    int  // columns; 0: no limit
	height   int  // lines; 0: no limit
	terminal bool // it can be redrawn
	colour   bool
}

// screenOf looks at a writer. NO_COLOR (https://no-color.org) and TERM=dumb turn
// colours off.
func screenOf(w io.Writer) screen {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return screen{}
	}
	dumb := os.Getenv("TERM") == "dumb"
	s := screen{terminal: !dumb, colour: !dumb && os.Getenv("NO_COLOR") == ""}
	if width, height, err := term.GetSize(int(f.Fd())); err == nil {
		s.width, s.height = width, height
	}
	return s
}

// tone is a colour or weight of text, as the parameter of SGR (ECMA-48).
type tone string

const (
	plain tone = ""
	bold  tone = "1"
	faint tone = "2"
	bad   tone = "31" // red
	good  tone = "32" // green
	wary  tone = "33" // yellow
)

// painted is text of a tone, where there are colours.
type painted struct {
	text string
	tone tone
}

func (s screen) paint(p painted) string {
	if !s.colour || p.tone == plain || p.text == "" {
		return p.text
	}
	return "\x1b[" + string(p.tone) + "m" + p.text + "\x1b[0m"
}
