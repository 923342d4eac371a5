package socket

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"shoal/kernel/sockets"
	"shoal/lb"
	"shoal/model"
)

// Closing that failed is tried again soon, then after twice as long each time: a
// datagram socket that waits for it has no answers.
const (
	firstClosing = time.Second / 4
	lastClosing  = time.Minute
)

// closingTries is how often sockets are looked for: one may be overlooked while
// the kernel's tables change.
const closingTries = 3

// walkLimit is how long a look for sockets may take: one for TCP, one for UDP.
const walkLimit = 20 * time.Second

// lookAgain is when sockets that were not found are looked for once more, before they count as ended. A
// connect() that the program has led, and whose thread has not gone on since, is in no table yet.
const lookAgain = time.Second

// closer closes the connections to tasks that are gone for good, and connects UDP
// sockets to another task, outside of passes: finding a socket may take a walk through
// every network namespace and the open files of every process.
type closer struct {
	plane *Plane
	wake  chan struct{}
	end   context.CancelFunc
	done  sync.WaitGroup

	mu     sync.Mutex      // held for a look
	looked map[uint64]peer // of the last look: those of [leaving.unanswered]
	missed map[uint64]miss // of the last look: those that may not have been found
}

// miss is a socket that was not found, and when it was so first.
type miss struct {
	to    peer
	since time.Time
}

func newCloser(p *Plane) *closer {
	ctx, cancel := context.WithCancel(context.Background())
	c := &closer{plane: p, wake: make(chan struct{}, 1), end: cancel}
	if p.opts.Destroy != nil || p.opts.Reconnect != nil {
		c.done.Go(func() { c.run(ctx) })
	}
	return c
}

// look has it look for such connections.
func (c *closer) look() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *closer) stop() {
	c.end()
	c.done.Wait()
}

func (c *closer) run(ctx context.Context) {
	again := time.NewTimer(0)
	defer again.Stop()
	<-again.C
	retry := firstClosing
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-again.C:
		}
		next, err := c.close(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.plane.log.Warn("not all connections to tasks that are gone were closed or moved", "error", err, "again", retry)
			next, retry = retry, min(2*retry, lastClosing)
		default:
			retry = firstClosing
		}
		if next > 0 {
			again.Reset(next)
		}
	}
}

// leaving are the sockets whose tasks are gone, by their cookies.
type leaving struct {
	close      map[uint64]peer
	move       map[uint64]peer
	unanswered map[uint64]peer // are closed if their task has not answered yet
}

// close closes and moves what is to be now, and tells when there will be more; 0:
// not as far as is known.
func (c *closer) close(ctx context.Context) (next time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	l, next, err := c.plane.leavers(now)
	if err != nil {
		return next, err
	}
	missed := map[uint64]miss{}
	defer func() {
		if c.missed = missed; len(missed) > 0 && (next == 0 || next > lookAgain) {
			next = lookAgain
		}
	}()
	// What is known to be closed, or was not found for that long, is forgotten.
	done := func(all bool, sockets map[uint64]peer) error {
		gone := map[uint64]peer{}
		for cookie, to := range sockets {
			m := c.missed[cookie]
			if m.to != to {
				m = miss{to, now}
			}
			if all || now.Sub(m.since) >= lookAgain {
				gone[cookie] = to
			} else {
				missed[cookie] = m
			}
		}
		return c.plane.forget(gone)
	}
	var closing error
	if c.plane.opts.Destroy != nil {
		closing = c.destroyLeaving(ctx, l, done)
	}
	unmoved, unfound, err := c.move(ctx, l.move)
	err = errors.Join(closing, err, done(false, unfound))
	if c.plane.opts.Destroy == nil || len(unmoved) == 0 {
		return next, err
	}
	all, closing := c.destroy(ctx, inStates(unmoved, sockets.Connected))
	if closing == nil {
		closing = done(all, unmoved)
	}
	return next, errors.Join(err, closing)
}

// destroyLeaving closes those that are to be closed, and those that wait for a first answer.
func (c *closer) destroyLeaving(ctx context.Context, l leaving, done func(all bool, sockets map[uint64]peer) error) error {
	cookies := inStates(l.close, sockets.Connected)
	for cookie, to := range l.unanswered {
		if c.looked[cookie] != to { // one that was answered stays so
			cookies[cookie] = sockets.Connecting
		}
	}
	all, err := c.destroy(ctx, cookies)
	if err != nil {
		return err
	}
	c.looked = l.unanswered
	return done(all, l.close)
}

// leavers finds them, and tells when there will be more.
func (p *Plane) leavers(now time.Time) (l leaving, next time.Duration, err error) {
	l = leaving{close: map[uint64]peer{}, move: map[uint64]peer{}, unanswered: map[uint64]peer{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.begun {
		return l, 0, nil
	}
	err = list(p.maps, "peers", func(cookie uint64, to peer) {
		k, f := p.frontendOf(&to)
		ends, at := ended(f, to.task(), now)
		switch {
		case !ends:
			if in := at.Sub(now); !at.IsZero() && (next == 0 || in < next) {
				next = in
			}
			if backendOf(f, to.task()).Lost && !p.pending[k] { // as below
				l.unanswered[cookie] = to
			}
		case to.Protocol != protoUDP || p.opts.Reconnect == nil:
			l.close[cookie] = to
		case !p.pending[k]: // else the maps have not the tasks yet; the end of the pass has the closer look again
			l.move[cookie] = to
		}
	})
	return l, next, err
}

// destroy closes sockets, and tells whether all were found. Some may have ended by themselves.
func (c *closer) destroy(ctx context.Context, cookies map[uint64]sockets.States) (all bool, err error) {
	if len(cookies) == 0 {
		return true, nil
	}
	ctx, end := context.WithTimeout(ctx, walkLimit)
	defer end()
	closed, err := destroyAll(ctx, c.plane.opts, cookies)
	if closed > 0 {
		c.plane.log.Info("connections to tasks that are gone were closed", "connections", closed)
	}
	return closed >= len(cookies), err
}

func destroyAll(ctx context.Context, opts Options, cookies map[uint64]sockets.States) (closed int, err error) {
	for range closingTries {
		n, err := opts.Destroy(ctx, cookies)
		if closed += n; err != nil {
			return closed, err
		}
		if n == 0 || closed >= len(cookies) {
			break
		}
	}
	return closed, nil
}

// inStates has all of them be closed that are in these states.
func inStates(found map[uint64]peer, states sockets.States) map[uint64]sockets.States {
	cookies := make(map[uint64]sockets.States, len(found))
	for cookie := range found {
		cookies[cookie] = states
	}
	return cookies
}

// forget takes out what was closed: its process may keep the socket for long. One
// that is led elsewhere by now stays.
func (p *Plane) forget(sockets map[uint64]peer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for cookie, was := range sockets {
		var to peer
		if p.maps.byName["peers"].Lookup(cookie, &to) != nil || to != was {
			continue
		}
		if err := p.maps.remove("peers", cookie); err != nil {
			return err
		}
	}
	return nil
}

// ends tells whether a socket is led to a task that is gone for good. If not, at
// is when it will be, so far as is known; else zero.
func (p *Plane) ends(to *peer, now time.Time) (ends bool, at time.Time) {
	_, f := p.frontendOf(to)
	return ended(f, to.task(), now)
}

// frontendOf is the frontend that a socket was led by; nil: there is none any more.
func (p *Plane) frontendOf(to *peer) (lb.Key, *lb.Frontend) {
	vip := to.vip()
	k := lb.Key{VIP: vip.Addr(), Protocol: model.Protocol(to.Protocol), Port: vip.Port()}
	if f := p.frontends[k]; f != nil {
		return k, f
	}
	k.Port = 0
	return k, p.frontends[k]
}

// backendOf is the task's backend of a frontend, which may be nil; nil: it has none any more.
func backendOf(f *lb.Frontend, task netip.AddrPort) *lb.Backend {
	if f == nil {
		return nil
	}
	for i := range f.Backends {
		b := &f.Backends[i]
		if b.Addr.Addr() == task.Addr() && (b.Addr.Port() == 0 || b.Addr.Port() == task.Port()) {
			return b
		}
	}
	return nil
}

// ended tells it of a frontend, nil if there is none any more. A draining task
// keeps its connections until its deadline, and so does one of a host that is
// considered dead, but for those that it has not answered yet. UDP knows no
// draining: it is for the tasks in rotation only.
func ended(f *lb.Frontend, task netip.AddrPort, now time.Time) (ends bool, at time.Time) {
	b := backendOf(f, task)
	switch {
	case b == nil, f.Protocol == model.UDP && b.Weight == 0:
		return true, time.Time{}
	case b.Until.IsZero():
		return false, time.Time{}
	case now.Before(b.Until):
		return false, b.Until
	}
	return true, time.Time{}
}
