package dockerwatch

import (
	"context"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"shoal/kernel/sockets"
	"shoal/model"
)

// Each task that waits to be ready has a goroutine that tries its ports, so that one
// that answers slowly, or never, holds up nobody. All together make no more than
// attemptRate attempts a second, however many containers start at once.
const (
	attemptRate  = 1000
	attemptBurst = 200
	lookupCost   = 3                      // attempts that a look into a namespace counts for
	attemptTime  = 500 * time.Millisecond // for one port to answer: a neighbour on a bridge does in microseconds

	firstPause = 20 * time.Millisecond // between attempts; later a tenth of the time that it has taken
	lastPause  = 500 * time.Millisecond
	latePause  = 5 * time.Second // after the limit, to see whether what is wrong still is

	// holdTime is how long what else there is to tell waits for the first attempt, so
	// that a task that listens at once is told of once.
	holdTime = 20 * time.Millisecond
)

// taskKey names a task of this host.
type taskKey struct {
	container string // its ID
	service   model.ServiceID
}

// probe is what there is to try of a task.
type probe struct {
	taskKey
	life  time.Time     // of the container
	since time.Time     // when it was started, or last unpaused
	limit time.Duration // after since
	addr  netip.Addr
	pid   int // of the container's first process; 0: not known
	plan  plan

	onHost bool // its network namespace is the host's
}

// outcome is what came of a probe.
type outcome int

const (
	refused  outcome = iota + 1 // the first attempt was in vain
	late                        // all were, and the limit is over
	accepted                    // the task is ready
)

// probed is news of a probe.
type probed struct {
	probe
	number  uint64 // of the probe that is under way
	outcome outcome
	first   bool   // it was the first attempt
	fault   string // of late: what is wrong
}

// probes are the tasks that are being tried.
type probes struct {
	news    chan probed // received from by Run
	running map[taskKey]*trial
	budget  *budget
	hold    *time.Timer // when the first attempt of the last begun is no longer waited for
	number  uint64
	wait    sync.WaitGroup
	attempt func(context.Context, *trial) bool
}

// trial is a probe that is under way.
type trial struct {
	probe
	number uint64
	stop   context.CancelFunc

	// Of Run's goroutine.
	begun time.Time
	tried bool

	// Of the trial's own goroutine.
	budget *budget
	left   []uint16 // of plan.all, those that have not accepted yet
}

// budget is what attempts are taken from. The limiter goes by the times that it is given, and counts time twice where
// a later one comes first: it is given them in order.
type budget struct {
	mu      sync.Mutex
	limiter *rate.Limiter
}

// wait takes n attempts. It fails where ctx ends first.
func (b *budget) wait(ctx context.Context, n int) error {
	b.mu.Lock()
	taken := b.limiter.ReserveN(time.Now(), n)
	b.mu.Unlock()
	select {
	case <-time.After(taken.Delay()):
		return nil
	case <-ctx.Done():
		b.mu.Lock()
		defer b.mu.Unlock()
		taken.Cancel()
		return ctx.Err()
	}
}

func newProbes() probes {
	return probes{
		news: make(chan probed), running: map[taskKey]*trial{}, attempt: try,
		budget: &budget{limiter: rate.NewLimiter(attemptRate, attemptBurst)}, hold: stoppedTimer(),
	}
}

// follow tries what is wanted, and nothing else.
func (p *probes) follow(wanted []probe) {
	keys := map[taskKey]bool{}
	for _, w := range wanted {
		keys[w.taskKey] = true
	}
	for key, t := range p.running {
		if !keys[key] {
			t.stop()
			delete(p.running, key)
		}
	}
	p.begin(wanted)
}

// begin tries what is wanted and not being tried yet.
func (p *probes) begin(wanted []probe) {
	for _, w := range wanted {
		if t := p.running[w.taskKey]; t != nil {
			if reflect.DeepEqual(t.probe, w) {
				continue
			}
			t.stop()
		}
		ctx, stop := context.WithCancel(context.Background())
		p.number++
		t := &trial{probe: w, number: p.number, stop: stop, begun: time.Now(), budget: p.budget, left: w.plan.all}
		p.running[w.taskKey] = t
		p.hold.Reset(holdTime)
		p.wait.Go(func() { p.run(ctx, t) })
	}
}

// fresh tells whether the first attempt of any is still worth waiting for.
func (p *probes) fresh() bool {
	for _, t := range p.running {
		if !t.tried && time.Since(t.begun) < holdTime {
			return true
		}
	}
	return false
}

// current tells whether news are of a probe that is still wanted, and notes that it was
// tried.
func (p *probes) current(n *probed) bool {
	t := p.running[n.taskKey]
	if t == nil || t.number != n.number {
		return false
	}
	t.tried = true
	return true
}

// stop ends all trials.
func (p *probes) stop() {
	p.follow(nil)
	p.wait.Wait()
}

// run tries a task until it is ready, or ctx ends. It tells of the first attempt, of
// the end of the limit, and of the end.
func (p *probes) run(ctx context.Context, t *trial) {
	begun := time.Now()
	due := begun.Add(min(t.limit, time.Until(t.since.Add(t.limit)))) // a clock that was set back makes it no later
	tell := func(o outcome, first bool, fault string) {
		select {
		case p.news <- probed{t.probe, t.number, o, first, fault}:
		case <-ctx.Done():
		}
	}
	over := false
	for first := true; ; first = false {
		if t.budget.wait(ctx, 1) != nil {
			return
		}
		if p.attempt(ctx, t) {
			tell(accepted, first, "")
			return
		}
		now := time.Now()
		pause := min(max(firstPause, now.Sub(begun)/10), lastPause)
		switch {
		case over:
			pause = latePause
		case !now.Before(due):
			over = true
			tell(late, false, t.finding())
			pause = latePause
		default:
			pause = min(pause, due.Sub(now))
			if first {
				tell(refused, true, "")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// try tells whether a task is ready. Where it cannot be found out, it is.
func try(ctx context.Context, t *trial) bool {
	test := func(port uint16) bool { return t.accepts(ctx, port) }
	if t.plan.proto == model.UDP {
		found, known := t.listeners(ctx, model.UDP)
		if !known {
			return true
		}
		test = func(port uint16) bool {
			return slices.ContainsFunc(found, func(l sockets.Listener) bool { return l.Addr.Port() == port && t.reaches(l) })
		}
	}
	for len(t.left) > 0 {
		if !test(t.left[0]) {
			return false
		}
		t.left = t.left[1:]
	}
	switch {
	case len(t.plan.any) == 0 && !t.plan.listens, slices.ContainsFunc(t.plan.any, test):
		return true
	case !t.plan.listens, len(t.plan.any) > 0 && time.Since(t.since) < exposedTime:
		return false
	}
	return t.listens(ctx)
}

// listens tells whether the task listens on any port.
func (t *trial) listens(ctx context.Context) bool {
	found, known := t.listeners(ctx, model.TCP, model.UDP, model.SCTP)
	if !known {
		return true
	}
	for _, l := range found {
		port := l.Addr.Port()
		switch {
		case !t.reaches(l):
		case l.Protocol == model.TCP:
			if t.accepts(ctx, port) {
				return true
			}
		case l.Protocol == model.SCTP || port < ephemeral:
			return true
		}
	}
	return false
}

// reaches tells whether what is sent to the task's address comes to the socket.
func (t *trial) reaches(l sockets.Listener) bool {
	a := l.Addr.Addr()
	return a.IsUnspecified() || a == t.addr
}

// accepts tells whether a connection to the task comes about. It is closed as it was
// opened, without a word: the process sees a client that has thought better of it.
func (t *trial) accepts(ctx context.Context, port uint16) bool {
	d := net.Dialer{Timeout: attemptTime}
	c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(t.addr, port).String())
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// listeners are the sockets that wait for clients in the task's network namespace; not
// known: they cannot be looked at.
func (t *trial) listeners(ctx context.Context, protos ...model.Protocol) (found []sockets.Listener, known bool) {
	if t.budget.wait(ctx, lookupCost) != nil {
		return nil, false
	}
	if t.pid == 0 {
		return nil, false
	}
	process, err := openProcess(t.pid, t.container) // it is the container's still
	if err != nil {
		return nil, false
	}
	defer process.Close()
	wanted := map[model.Protocol]bool{}
	for _, p := range protos {
		wanted[p] = true
	}
	found, err = sockets.ListenersOf(t.pid, wanted)
	return found, err == nil
}

// finding says why the task is not ready.
func (t *trial) finding() string {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTime)
	defer cancel()
	proto := t.plan.proto
	if proto == 0 {
		proto = model.TCP
	}
	left := slices.Concat(t.left, t.plan.any)
	found, known := t.listeners(ctx, proto)
	if !known {
		return finding(left, proto, nil)
	}
	if t.onHost { // what else listens there is not the task's
		found = slices.DeleteFunc(found, func(l sockets.Listener) bool { return !slices.Contains(left, l.Addr.Port()) })
	}
	return finding(left, proto, append([]sockets.Listener{}, found...))
}
