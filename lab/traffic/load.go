package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Load is a stream of requests to one target.
type Load struct {
	Target string
	Options
	// Keep has each worker use one connection for all its requests, until one fails. Without it each request has
	// a connection (over UDP: a source port) of its own.
	Keep bool
	// Hold has a worker that keeps its connection do so when a request fails, too: it looks at no errors.
	Hold bool
	// Workers is how many requests are made at a time; zero is 1.
	Workers int
	// Interval is the time from one request of a worker to its next; zero is no pause.
	Interval time.Duration
	// Count is how many requests are made in all; zero is no limit.
	Count int
	// Progress, where there is one, is told ten times a second how many requests have been answered, and have failed.
	Progress func(ok, failed int)
	// Each, where there is one, is given every request once it has ended. It is called by one worker at a time.
	Each func(Request)
}

// Request is what became of one request of a load. Times are Unix nanoseconds.
type Request struct {
	Begun    int64  `json:"begun"`
	Ended    int64  `json:"ended"`
	Hostname string `json:"hostname,omitempty"` // who answered
	Error    string `json:"error,omitempty"`    // what went wrong, as in Summary.Errors; "": it was answered
}

// Summary is what became of a load. Times are Unix nanoseconds, 0 where there is none; durations are nanoseconds.
type Summary struct {
	Sent   int `json:"sent"`
	OK     int `json:"ok"`
	Failed int `json:"failed"`

	Started      int64 `json:"started"`
	Ended        int64 `json:"ended"`
	FirstOK      int64 `json:"first_ok"`
	LastOK       int64 `json:"last_ok"`
	FirstFailure int64 `json:"first_failure"` // when its request was begun
	LastFailure  int64 `json:"last_failure"`  // likewise

	// Errors counts what went wrong, by its cause: "timeout", "connection refused", "status 503 Service Unavailable".
	Errors map[string]int `json:"errors,omitempty"`
	// Hostnames counts the answers by who gave them, Clients by the address they saw.
	Hostnames map[string]int `json:"hostnames,omitempty"`
	Clients   map[string]int `json:"clients,omitempty"`

	P50 time.Duration `json:"p50_ns"`
	P99 time.Duration `json:"p99_ns"`
}

// Run makes requests until Count is reached or ctx ends. A request that the end of ctx cuts short is not counted.
func (l Load) Run(ctx context.Context) (Summary, error) {
	tally := &tally{each: l.Each, Summary: Summary{
		Started: time.Now().UnixNano(),
		Errors:  map[string]int{}, Hostnames: map[string]int{}, Clients: map[string]int{},
	}}
	turns := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(turns)
		for n := 0; l.Count == 0 || n < l.Count; n++ {
			select {
			case turns <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	var workers, teller sync.WaitGroup
	if l.Progress != nil {
		teller.Go(func() { tally.tell(ctx, l.Progress) })
	}
	for range max(l.Workers, 1) {
		c, err := newClient(l.Target, l.Options, l.Keep || l.Hold)
		if err != nil {
			return Summary{}, err
		}
		c.hold = l.Hold
		workers.Go(func() {
			defer c.close()
			l.work(ctx, c, turns, tally)
		})
	}
	workers.Wait()
	cancel()
	teller.Wait() // what is told is told before the end
	return tally.sum(), nil
}

func (l Load) work(ctx context.Context, c *client, turns <-chan struct{}, t *tally) {
	for range turns {
		begun := time.Now()
		reply, err := c.do(ctx)
		if err != nil && ctx.Err() != nil {
			return
		}
		t.add(begun, reply, err)
		if rest := l.Interval - time.Since(begun); rest > 0 {
			select {
			case <-time.After(rest):
			case <-ctx.Done():
				return
			}
		}
	}
}

type tally struct {
	mu sync.Mutex
	Summary
	took []time.Duration
	each func(Request)
}

func (t *tally) add(begun time.Time, r Reply, err error) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Sent++
	if t.each != nil {
		one := Request{Begun: begun.UnixNano(), Ended: now.UnixNano(), Hostname: r.Hostname}
		if err != nil {
			one.Error = cause(err)
		}
		t.each(one)
	}
	if err != nil {
		t.Failed++
		t.LastFailure = begun.UnixNano()
		if t.FirstFailure == 0 {
			t.FirstFailure = t.LastFailure
		}
		t.Errors[cause(err)]++
		return
	}
	t.OK++
	t.LastOK = now.UnixNano()
	if t.FirstOK == 0 {
		t.FirstOK = t.LastOK
	}
	t.took = append(t.took, now.Sub(begun))
	t.Hostnames[r.Hostname]++
	if r.Client.IsValid() {
		t.Clients[r.Client.Addr().String()]++
	}
}

func (t *tally) tell(ctx context.Context, progress func(ok, failed int)) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.mu.Lock()
			ok, failed := t.OK, t.Failed
			t.mu.Unlock()
			progress(ok, failed)
		}
	}
}

func (t *tally) sum() Summary {
	t.Ended = time.Now().UnixNano()
	t.P50, t.P99 = percentile(t.took, 50), percentile(t.took, 99)
	return t.Summary
}

// cause is what went wrong, without the addresses that differ from one request to the next.
func cause(err error) string {
	var timeout interface{ Timeout() bool }
	var lookup *net.DNSError
	var errno syscall.Errno
	switch {
	case errors.As(err, &lookup):
		return lookup.Err
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

// percentile is the smallest of all that p percent do not exceed (nearest rank); 0 of none.
func percentile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)*p+99)/100-1]
}

// ParseSummary reads a Summary as whoami prints it, the last line of output.
func ParseSummary(output string) (Summary, error) {
	output = strings.TrimSpace(output)
	all, err := ParseSummaries(output[strings.LastIndexByte(output, '\n')+1:])
	if err != nil {
		return Summary{}, err
	}
	return all[0], nil
}

// ParseSummaries reads those of several targets, a line each, of which there is one at least.
func ParseSummaries(output string) (all []Summary, err error) {
	for line := range strings.SplitSeq(strings.TrimSpace(output), "\n") {
		var s Summary
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			return nil, fmt.Errorf("read the summary of a load from %q: %w", line, err)
		}
		all = append(all, s)
	}
	return all, nil
}

// ParseRequests reads the requests that whoami prints with --each, in the order in which they ended. Other lines, and a last
// one that is not whole, are skipped.
func ParseRequests(output string) (all []Request) {
	for line := range strings.Lines(output) {
		var r Request
		if strings.HasPrefix(line, `{"begun":`) && strings.HasSuffix(line, "\n") && json.Unmarshal([]byte(line), &r) == nil {
			all = append(all, r)
		}
	}
	return all
}
