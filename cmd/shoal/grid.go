package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/mattn/go-runewidth"

	"shoal/internal/printable"
)

// gap is what lies between two columns, and narrowest the least that a last
// column is wrapped to.
const (
	gap       = 3
	narrowest = 20
)

// grid lines text up in columns. What is written to it is lines whose cells are
// separated by tabulators; [row] adds a line too, and knows tones. The last cell of
// a line is wrapped to the width of the screen.
type grid struct {
	screen screen
	lines  [][]painted
	rest   []byte // of a line without its end yet
}

// Write adds lines of text.
func (g *grid) Write(p []byte) (int, error) {
	g.rest = append(g.rest, p...)
	for {
		line, rest, ended := bytes.Cut(g.rest, []byte("\n"))
		if !ended {
			return len(p), nil
		}
		g.addText(string(line))
		g.rest = rest
	}
}

func (g *grid) addText(line string) {
	var cells []painted
	for text := range strings.SplitSeq(line, "\t") {
		cells = append(cells, painted{text: text})
	}
	g.lines = append(g.lines, cells)
}

// row adds a line to w, with a tone where w is a grid. An empty cell is shown as "-".
func row(w io.Writer, cells ...any) {
	line := make([]painted, len(cells))
	for i, c := range cells {
		p, ok := c.(painted)
		if !ok {
			p.text = fmt.Sprint(c)
		}
		p.text = cell(cmp.Or(p.text, "-"))
		line[i] = p
	}
	if g, ok := w.(*grid); ok {
		g.lines = append(g.lines, line)
		return
	}
	for i, p := range line {
		fmt.Fprint(w, p.text, map[bool]string{true: "\n", false: "\t"}[i == len(line)-1])
	}
}

// cell keeps text in its cell of a table: what somebody else has named can make no
// line of its own.
func cell(text string) string { return strings.NewReplacer("\n", "; ", "\t", " ").Replace(text) }

// text is the grid as it is printed. Nothing in it but the screen's own colours
// speaks to a terminal.
func (g *grid) text() string {
	if len(g.rest) > 0 {
		g.addText(string(g.rest))
		g.rest = nil
	}
	var widths []int
	for _, line := range g.lines {
		for i := range line {
			line[i].text = printable.Line(line[i].text)
			if i == len(line)-1 {
				break // nothing follows it
			}
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], runewidth.StringWidth(line[i].text))
		}
	}
	var b strings.Builder
	for _, line := range g.lines {
		indent, last := 0, len(line)-1
		for i, p := range line[:last] {
			b.WriteString(g.screen.paint(p))
			b.WriteString(strings.Repeat(" ", widths[i]+gap-runewidth.StringWidth(p.text)))
			indent += widths[i] + gap
		}
		for i, part := range g.screen.wrap(line[last].text, indent) {
			if i > 0 {
				b.WriteString(strings.Repeat(" ", indent))
			}
			b.WriteString(g.screen.paint(painted{part, line[last].tone}) + "\n")
		}
	}
	return b.String()
}

// wrap breaks text that begins at a column between its words, so that it ends with
// the screen. Without a width, or where little is left, it stays one line.
func (s screen) wrap(text string, column int) []string {
	room := s.width - column
	if room < narrowest || runewidth.StringWidth(text) <= room {
		return []string{text}
	}
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && runewidth.StringWidth(line)+1+runewidth.StringWidth(word) > room {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		for line += word; runewidth.StringWidth(line) > room; { // a word that is longer than a line
			head := runewidth.Truncate(line, room, "")
			lines, line = append(lines, head), line[len(head):]
		}
	}
	return append(lines, line)
}
