package printable

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// hostile is what is escaped, and how it is written then.
var hostile = map[string]string{
	"\x1b[2J":                  `\u001b[2J`,            // clear the screen
	"\x1b]0;title\x07":         `\u001b]0;title\u0007`, // set the title
	"\u009b2J":                 `\u009b2J`,             // the same as one control of C1
	"\r":                       `\u000d`,               // overwrite the line
	"\b\x00\x7f":               `\u0008\u0000\u007f`,
	"\u202egnp.exe":            `\u202egnp.exe`, // turn the direction of writing
	"\u2066x\u2069":            `\u2066x\u2069`, // isolates
	"\u2028\u2029":             `\u2028\u2029`,  // ends of lines to some
	"\u200b\ufeff":             `\u200b\ufeff`,  // of no width
	"\U000e0041":               `\udb40\udc41`,  // tags
	"\x9b2J":                   "\ufffd2J",      // C1 in Latin-1
	"\xff\xe2\x82":             "\ufffd\ufffd\ufffd",
	"a name, déjà vu, 网, …, →": "a name, déjà vu, 网, …, →",
	"two\nlines\tof a table\n": "two\nlines\tof a table\n",
}

func TestWhatDoesNotPrintIsEscaped(t *testing.T) {
	for text, want := range hostile {
		if got := Text(text); got != want {
			t.Errorf("%q is written as %q, want %q", text, got, want)
		}
	}
	if got := Line("a\nforged\tline\x1b"); got != `a\u000aforged\u0009line\u001b` {
		t.Errorf("a line is written as %q", got)
	}
}

func TestAWriterEscapesWhereverItIsCut(t *testing.T) {
	for text, want := range hostile {
		text, want = text+"end", want+"end"
		for size := 1; size <= len(text); size++ {
			var b bytes.Buffer
			w := NewWriter(&b)
			for rest := []byte(text); len(rest) > 0; {
				n := min(size, len(rest))
				if wrote, err := w.Write(rest[:n]); wrote != n || err != nil {
					t.Fatalf("%d of %d bytes written: %v", wrote, n, err)
				}
				rest = rest[n:]
			}
			if b.String() != want {
				t.Errorf("%q in pieces of %d is written as %q, want %q", text, size, b.String(), want)
			}
		}
	}
}

// TestJSONMeansTheSame: what escapes in a string of JSON is that string still.
func TestJSONMeansTheSame(t *testing.T) {
	for text := range hostile {
		text = strings.ToValidUTF8(text, "\ufffd")
		var b bytes.Buffer
		if err := json.NewEncoder(NewWriter(&b)).Encode(text); err != nil {
			t.Fatal(err)
		}
		var back string
		if err := json.Unmarshal(b.Bytes(), &back); err != nil || back != text {
			t.Errorf("%q became %s and is read as %q: %v", text, b.Bytes(), back, err)
		}
	}
}
