package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"
)

// reach tries all targets at the same time and prints a line each: the target, and what came of it.
func reach(ctx context.Context, flags *flag.FlagSet) error {
	timeout := flags.Duration("timeout", 2*time.Second, "time for a target")
	var from netip.AddrPort
	flags.Func("from", "the client's own `ADDR:PORT` for the first target, for each other the next port", func(s string) (err error) {
		from, err = netip.ParseAddrPort(s)
		return err
	})
	targets, err := parseTargets(flags)
	if err != nil {
		return err
	}
	outcomes := make([]string, len(targets))
	var all sync.WaitGroup
	for i, target := range targets {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, *timeout)
			defer cancel()
			own := from
			if own.IsValid() {
				own = netip.AddrPortFrom(from.Addr(), from.Port()+uint16(i))
			}
			outcomes[i] = outcome(reachOne(ctx, target, own))
		})
	}
	all.Wait()
	for i, target := range targets {
		fmt.Println(target, outcomes[i])
	}
	return nil
}

// reachOne returns nil if there is somebody at the target: who takes a TCP connection, or answers a question over UDP.
func reachOne(ctx context.Context, target string, from netip.AddrPort) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	var d net.Dialer
	switch {
	case !from.IsValid():
	case u.Scheme == "tcp":
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
	default:
		d.LocalAddr = net.UDPAddrFromAddrPort(from)
	}
	switch u.Scheme {
	case "tcp":
		c, err := d.DialContext(ctx, "tcp", u.Host)
		if err == nil {
			c.Close()
		}
		return err
	case "udp": // one that answers what it gets, as serve does
		c, err := d.DialContext(ctx, "udp", u.Host)
		if err != nil {
			return err
		}
		defer c.Close()
		deadline, _ := ctx.Deadline()
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
		if _, err := c.Write([]byte("reach")); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1500))
		return err
	case "dns": // a name server; the path is the name
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "udp", u.Host)
		}}
		_, err := r.LookupHost(ctx, u.Path[1:]+".")
		var lookup *net.DNSError
		if errors.As(err, &lookup) && lookup.IsNotFound {
			return nil // it says that there is no such name
		}
		return err
	}
	return fmt.Errorf("target %q: want tcp://, udp:// or dns://", target)
}

// outcome is a word for what a client met: open, refused, unreachable, silence, or what else went wrong.
func outcome(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil:
		return "open"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return "unreachable"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "silence"
	}
	return err.Error()
}
