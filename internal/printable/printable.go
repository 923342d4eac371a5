// Package printable keeps what others have named (processes, containers, labels,
// hosts) from speaking to the terminal that shows it. Escape sequences move the
// cursor, hide text and set titles, and characters that turn the direction of
// writing make a line look like another one.
//
// In: any text. Out: the same, with every character that is not to be seen
// written as \uXXXX. That is what JSON writes as well: text in JSON means the
// same before and after.
package printable

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// shown tells whether a character may reach a terminal: those that print, and the
// end of a line and the tabulator, which tables are made of.
func shown(r rune) bool { return r == '\n' || r == '\t' || unicode.IsPrint(r) }

// Text is s with what does not print escaped.
func Text(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !shown(r) }) && utf8.ValidString(s) {
		return s
	}
	return string(escape(nil, []byte(s)))
}

// Line is Text in one line: ends of lines and tabulators are escaped as well.
func Line(s string) string {
	return strings.NewReplacer("\n", `\u000a`, "\t", `\u0009`).Replace(Text(s))
}

// escape appends text to out. Bytes that are no UTF-8 become U+FFFD.
func escape(out, text []byte) []byte {
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case shown(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[n:]
	}
	return out
}

// Writer escapes what is written to another one: each Write is one Write there.
// It is safe for concurrent use.
type Writer struct {
	mu   sync.Mutex
	to   io.Writer
	rest []byte // the beginning of a character whose end is not there yet
}

// NewWriter makes a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{to: w} }

// Write writes all of p but the beginning of a character at its end, which waits
// for the next Write.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := append(w.rest, p...)
	end := len(text)
	for i := 1; i < utf8.UTFMax && i <= end; i++ {
		if utf8.RuneStart(text[end-i]) {
			if !utf8.FullRune(text[end-i:]) {
				end -= i
			}
			break
		}
	}
	w.rest = append([]byte(nil), text[end:]...)
	if _, err := w.to.Write(escape(nil, text[:end])); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Unescaped writes to the same place, and escapes nothing: what goes there must
// have been escaped by [Text] or [Line] already. It is for colours.
func (w *Writer) Unescaped() io.Writer { return unescaped{w} }

type unescaped struct{ w *Writer }

func (u unescaped) Write(p []byte) (int, error) {
	u.w.mu.Lock()
	defer u.w.mu.Unlock()
	return u.w.to.Write(p)
}
