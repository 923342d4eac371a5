//go:build e2e

// Package e2e tests shoal whole: the built binary, real Docker engines, a real kernel and real packets. It runs in
// the lab, by `make e2e`, over one data plane at a time: what is particular to one is in plane_test.go.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"shoal/lab"
)

// shared is the lab of all tests that need no hosts of their own: starting an engine takes seconds.
var shared *lab.Lab

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == asOtherServer {
		fmt.Fprintln(os.Stderr, serveOther())
		os.Exit(1)
	}
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given { // the cases of TestHostsCases wait for engines and agents most of the time, however few processors there are
		_ = flag.Set("test.parallel", "4")
	}
	os.Setenv("SHOAL_REPAIR", "3s") // many tests wait for a whole pass, which an agent makes less often by default
	var err error
	if shared, err = lab.Open(); err != nil {
		fmt.Fprintln(os.Stderr, "end-to-end tests:", err)
		os.Exit(1)
	}
	shared.Host("a") // the first of all, whichever tests come first: its engine's addresses are 10.101.0.0/16
	code := m.Run()
	if err := shared.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "close the lab:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}
