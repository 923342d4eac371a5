// Command bench measures shoal and prints a table of ratios, in Markdown. It
// exits with 0 if every figure was taken. It runs in the lab: make bench.
package main

import (
	"flag"
	"fmt"
	"os"

	"shoal/bench"
)

func main() {
	var o bench.Options
	flag.StringVar(&o.Part, "part", "", "measure only this: plane (the data plane by itself), host (one host), cluster (three), socket (balancing in connect()) or swarm (beside Docker Swarm, with IPVS)")
	flag.BoolVar(&o.Quick, "quick", false, "a few rounds only: to see that it works")
	serve := flag.String("serve", "", "be a `server` that shoal's is measured against, echo or handler, at the address that follows")
	flag.Parse()
	if *serve != "" {
		err := bench.Serve(*serve, flag.Arg(0))
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(bench.Run(o, os.Stdout, os.Stderr))
}
