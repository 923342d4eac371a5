package socket

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"shoal/lb"
	"shoal/model"
)

// lostGrace is how long connections to a host that is considered dead are left
// to it: so long a partition or a slow host costs nothing.
const lostGrace = 10 * time.Second

// Closing that failed is tried again after a second, then after twice as long each
// time.
const (
	firstClosing = time.Second
	lastClosing  = time.Minute
)

// closingTries is how often sockets are looked for: one may be overlooked while
// the kernel's tables change.
const closingTries = 3

// closer closes the connections to tasks that are gone for good, outside of
// passes: finding a socket may take a walk through every network namespace.
type closer struct {
	plane *Plane
	wake  chan struct{}
	end   context.CancelFunc
	done  sync.WaitGroup
}

func newCloser(p *Plane) *closer {
	ctx, cancel := context.WithCancel(context.Background())
	c := &closer{plane: p, wake: make(chan struct{}, 1), end: cancel}
	if p.opts.Destroy != nil {
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
			c.plane.log.Warn("connections to tasks that are gone could not be closed", "error", err, "again", retry)
			next, retry = retry, min(2*retry, lastClosing)
		default:
			retry = firstClosing
		}
		if next > 0 {
			again.Reset(next)
		}
	}
}

// close closes what is to be closed now, and tells when there will be more; 0:
// not as far as is known.
func (c *closer) close(ctx context.Context) (next time.Duration, err error) {
	p := c.plane
	cookies := map[uint64]bool{}
	now := time.Now()
	sooner := func(at time.Time) {
		if in := at.Sub(now); !at.IsZero() && (next == 0 || in < next) {
			next = in
		}
	}
	p.mu.Lock()
	if !p.begun {
		p.mu.Unlock()
		return 0, nil
	}
	err = list(p.maps, "peers", func(cookie uint64, to peer) {
		ends, at := p.ends(&to, now)
		if ends {
			cookies[cookie] = true
		}
		sooner(at)
	})
	p.mu.Unlock()
	if err != nil || len(cookies) == 0 {
		return next, err
	}
	if err := c.destroy(ctx, cookies); err != nil {
		return next, err
	}
	return next, p.forget(cookies)
}

// destroy closes sockets. Some may have ended by themselves.
func (c *closer) destroy(ctx context.Context, cookies map[uint64]bool) error {
	closed := 0
	for range closingTries {
		n, err := c.plane.opts.Destroy(ctx, cookies)
		if closed += n; err != nil {
			return err
		}
		if n == 0 || closed >= len(cookies) {
			break
		}
	}
	if closed > 0 {
		c.plane.log.Info("connections to tasks that are gone were closed", "connections", closed)
	}
	return nil
}

// forget takes out what was closed: its process may keep the socket for long. One
// that is led elsewhere by now stays.
func (p *Plane) forget(cookies map[uint64]bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for cookie := range cookies {
		var to peer
		if p.maps.byName["peers"].Lookup(cookie, &to) != nil {
			continue
		}
		if ends, _ := p.ends(&to, time.Now()); ends {
			if err := p.maps.remove("peers", cookie); err != nil {
				return err
			}
		}
	}
	return nil
}

// ends tells whether a socket is led to a task that is gone for good. If not, at
// is when it will be, so far as is known; else zero.
func (p *Plane) ends(to *peer, now time.Time) (ends bool, at time.Time) {
	vip := to.vip()
	k := lb.Key{VIP: vip.Addr(), Protocol: model.Protocol(to.Protocol), Port: vip.Port()}
	f := p.frontends[k]
	if f == nil {
		k.Port = 0
		f = p.frontends[k]
	}
	return ended(f, to.task(), now)
}

// ended tells it of a frontend, nil if there is none any more. A draining task
// keeps its connections until its deadline, one of a host that is considered dead
// for lostGrace. UDP knows no draining: a frontend of it has the tasks in rotation
// only.
func ended(f *lb.Frontend, task netip.AddrPort, now time.Time) (ends bool, at time.Time) {
	if f == nil {
		return true, time.Time{}
	}
	for _, b := range f.Backends {
		if b.Addr.Addr() != task.Addr() || b.Addr.Port() != 0 && b.Addr.Port() != task.Port() {
			continue
		}
		switch {
		case !b.Until.IsZero():
			at = b.Until
		case !b.Lost.IsZero():
			at = b.Lost.Add(lostGrace)
		default:
			return false, time.Time{}
		}
		if now.Before(at) {
			return false, at
		}
		return true, time.Time{}
	}
	return true, time.Time{}
}
