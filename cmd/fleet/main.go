// Command fleet simulates a cluster of many hosts on this machine and prints what it costs
// and how fast it is, in Markdown. It exits with 0 if all was measured: make fleet.
package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"syscall"

	"shoal/bench/fleet"
	"shoal/cluster"
	"shoal/store"
)

func main() {
	if store.IsChild() {
		os.Exit(store.RunChild(cluster.RevokedBy))
	}
	if fleet.IsWorker() {
		os.Exit(fleet.RunWorker())
	}
	var o fleet.Options
	flag.IntVar(&o.Hosts, "hosts", 50, "how many `hosts`")
	flag.IntVar(&o.Tasks, "tasks", 2, "how many `tasks` each of them has")
	flag.IntVar(&o.Servers, "servers", 1, "how many of them serve the store: 1 or 3")
	flag.IntVar(&o.Workers, "workers", 0, "how many `processes` the hosts of a part share; 0: one for 250 hosts, 2 at least")
	flag.IntVar(&o.Seconds, "seconds", 30, "how long the phases rest and churn take")
	flag.Float64Var(&o.Churn, "churn", 50, "task `changes` a second, of the whole fleet")
	flag.IntVar(&o.Cut, "cut", 0, "how many `hosts` a partition cuts off; 0: three of ten")
	flag.IntVar(&o.Deaths, "deaths", 5, "how many `hosts` die, one after the other")
	flag.IntVar(&o.Askers, "askers", 0, "how many `hosts` ask all others whether they are alive, as hosts do; 0: all")
	flag.DurationVar(&o.Limit, "limit", 0, "how long a cold start may take before the run goes on without it; 0: three minutes")
	flag.StringVar(&o.Phases, "phase", "", "only these `phases` of cold, rest, churn, server, partition and death, with commas; cold is always done")
	flag.StringVar(&o.Part, "part", "", "only this `part`: catalog or liveness")
	flag.StringVar(&o.Dir, "dir", "", "the `folder` that the hosts' files are in, in one of their own; on a disk, or in memory")
	flag.BoolVar(&o.Verbose, "v", false, "show what the hosts log")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := fleet.Run(ctx, o, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
