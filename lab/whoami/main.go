package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"shoal/lab/traffic"
)

func main() {
	if len(os.Args) < 2 {
		fail(2, "want serve, get, reach or load")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	flags := flag.NewFlagSet("whoami "+os.Args[1], flag.ExitOnError)
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(ctx, flags)
	case "get":
		err = get(ctx, flags)
	case "reach":
		err = reach(ctx, flags)
	case "load":
		err = load(ctx, flags)
	default:
		fail(2, "want serve, get, reach or load, not "+os.Args[1])
	}
	if err != nil {
		fail(1, err)
	}
}

func fail(status int, why any) {
	fmt.Fprintln(os.Stderr, "whoami:", why)
	os.Exit(status)
}

// requestFlags are those that get and load share. The target is what is left after them.
func requestFlags(flags *flag.FlagSet, o *traffic.Options) {
	flags.DurationVar(&o.Timeout, "timeout", 2*time.Second, "time for a request, connecting included")
	flags.StringVar(&o.Payload, "payload", "hello", "what to send over TCP, UDP and SCTP")
	flags.Func("from-port", "the client's own `port` of the first request, of each other the next one", func(s string) error {
		first, err := strconv.ParseUint(s, 10, 16)
		var next atomic.Uint32
		next.Store(uint32(first))
		o.Port = func() uint16 { return uint16(next.Add(1) - 1) }
		return err
	})
}

func get(ctx context.Context, flags *flag.FlagSet) error {
	var o traffic.Options
	requestFlags(flags, &o)
	targets, err := parseTargets(flags)
	if err != nil {
		return err
	}
	if len(targets) > 1 {
		return fmt.Errorf("want one target, not %q", targets)
	}
	reply, err := traffic.Get(ctx, targets[0], o)
	fmt.Print(reply.Body)
	return err
}

func load(ctx context.Context, flags *flag.FlagSet) error {
	var l traffic.Load
	requestFlags(flags, &l.Options)
	flags.BoolVar(&l.Keep, "keep", false, "use one connection for all requests of a worker")
	flags.BoolVar(&l.Hold, "hold", false, "as --keep, and keep it when a request fails")
	flags.IntVar(&l.Workers, "workers", 1, "how many requests to make at a time")
	flags.DurationVar(&l.Interval, "interval", 20*time.Millisecond, "time from one request of a worker to its next")
	flags.IntVar(&l.Count, "count", 0, "stop after so many requests")
	progress := flags.Bool("progress", false, "say on standard error, ten times a second, how many were answered and failed")
	each := flags.Bool("each", false, "print every request too, as a line of JSON, once it has ended")
	limit := flags.Duration("for", 0, "stop after this time")
	file := flags.String("until-file", "", "stop once this `file` exists")
	targets, err := parseTargets(flags)
	if err != nil {
		return err
	}
	if len(targets) > 1 && l.Count == 0 {
		return errors.New("several targets are asked one after the other: say by --count when to go on")
	}
	if *progress {
		l.Progress = func(ok, failed int) { fmt.Fprintln(os.Stderr, ok, failed) }
	}
	if *each {
		out := json.NewEncoder(os.Stdout)
		l.Each = func(r traffic.Request) { _ = out.Encode(r) } // nobody is left to tell that nobody reads
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *limit > 0 {
		time.AfterFunc(*limit, cancel)
	}
	if *file != "" {
		go func() {
			for ctx.Err() == nil {
				if _, err := os.Stat(*file); err == nil {
					cancel()
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	for _, l.Target = range targets {
		summary, err := l.Run(ctx)
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(summary)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseTargets(flags *flag.FlagSet) ([]string, error) {
	_ = flags.Parse(os.Args[2:]) // ends the program where it fails
	if flags.NArg() == 0 {
		return nil, errors.New("want a target, like http://web:8000/")
	}
	return flags.Args(), nil
}
