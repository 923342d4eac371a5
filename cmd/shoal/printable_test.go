package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"shoal/api"
	"shoal/internal/printable"
	"shoal/model"
)

// TestNothingThatSomebodyNamedSpeaksToTheTerminal: problems and explain show what containers and processes are called.
func TestNothingThatSomebodyNamedSpeaksToTheTerminal(t *testing.T) {
	const hostile = "\x1b[2J\x1b]0;mine\a\u009b1A\u202etxt.exe\r\x9d"
	dir, err := os.MkdirTemp("", "shoal")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", api.Socket(dir))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/cluster/problems", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode([]model.Problem{{Node: "a", Kind: "service", Object: "web", Reason: hostile + "\nforged   line"}})
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(api.Explanation{What: hostile, Verdict: hostile, Steps: []api.Step{{What: "port\nok", Evidence: hostile}}})
	})
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux}}
	s.Start()
	t.Cleanup(s.Close)
	var errors bytes.Buffer
	defer func(was *printable.Writer) { stderr = was }(stderr)
	stderr = printable.NewWriter(&errors)

	for args, status := range map[string]int{"problems": 0, "problems -o json": 0, "explain web": 1, "explain web -o json": 1} {
		var out bytes.Buffer
		errors.Reset()
		if got := run(t.Context(), append(strings.Fields(args), "--run-dir", dir), &out, false); got != status {
			t.Fatalf("%s: exit status %d: %s%s", args, got, out.String(), errors.String())
		}
		text := out.String() + errors.String()
		if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 || r == 0x202e }); i >= 0 {
			t.Errorf("%s: %q reaches the terminal in\n%q", args, text[i], text)
		}
		if !strings.Contains(text, `\u001b[2J`) || !strings.Contains(text, `\u009b1A`) || !strings.Contains(text, `\u202etxt`) {
			t.Errorf("%s: what was there is not shown: %s", args, text)
		}
		if !strings.Contains(args, "json") && strings.Contains(text, "\nforged") {
			t.Errorf("%s: a line was forged: %s", args, text)
		}
	}
}

func TestNoLogSpeaksToTheTerminal(t *testing.T) {
	defer func(was *printable.Writer) { stderr = was }(stderr)
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		stderr = printable.NewWriter(&out)
		log, err := logger("info", format)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("a \u009b1A\x1b[2J", "name\u202e", "\u009b1A\u202etxt")
		if strings.ContainsAny(out.String(), "\u009b\u202e\x1b") || !strings.Contains(out.String(), `\u202etxt`) {
			t.Errorf("%s: %q", format, out.String())
		}
	}
}
