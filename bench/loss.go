package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"shoal/lab"
	"shoal/model"
)

// A client waits so long for its connection to be closed.
const (
	lossLimit     = 10 * time.Second // when the task is gone
	lostHostLimit = 30 * time.Second // when its host is unreachable
)

// mortal is the service whose only task goes away: it is on host b.
const mortal = "mortal"

// loss is a way for a task to go away.
type loss struct {
	what   string
	limit  time.Duration
	rounds int
	strike func() // makes it go
	mend   func() // has a task there again
}

// known is how long after a loss a client's connection was closed.
type known struct {
	after  time.Duration
	closed bool
	how    error // nil: the other end closed it
}

// losses measure how long it takes a client that waits for an answer to learn that its task, on another host,
// is gone: one that was led in connect(), and one that the data plane carried.
func (s *sockets) losses() []Row {
	addr := nth(s.subnet(s.b), 20)
	start := func() { s.b.run(meshNetwork, mortal, addr, "-l", "shoal.service="+mortal, "whoami") }
	again := func() {
		s.b.host.Docker("rm", "-f", mortal)
		start()
	}
	start()
	w := &wake{sockets: s, task: addr, led: s.enter(s.client.ns), plain: s.enter(s.client.ns)}
	some := max(1, s.rounds/4)
	var rows []Row
	for _, l := range []loss{
		{"its task is killed", lossLimit, some, func() { s.b.kill(mortal) }, again},
		{"its task loses its network", lossLimit, some, func() {
			s.must("take the network from the task", s.b.docker.NetworkDisconnect(context.Background(), meshNetwork, mortal, true))
		}, again},
		{"its task's host is cut off", lostHostLimit, max(1, some/2), s.b.host.CutOff, s.b.host.Reconnect},
	} {
		s.Logf("a client waits, and %s", l.what)
		rows = append(rows, w.loss(l))
	}
	return rows
}

// wake is two clients that wait for the end of a task.
type wake struct {
	*sockets
	task       netip.Addr
	led, plain *thread
}

func (w *wake) loss(l loss) Row {
	var led, plain []known
	for range l.rounds {
		a, b := w.lose(l)
		led, plain = append(led, a), append(plain, b)
		w.Logf("led: %v; by the data plane: %v", a, b)
		w.awaitGone()
		l.mend()
	}
	return Row{What: fmt.Sprintf("a client waits, and %s: until its connection is closed, p50 of %d", l.what, l.rounds),
		Shoal: knownText(led, l.limit), Against: knownText(plain, l.limit) + " by the data plane alone"}
}

// awaitGone waits until the agent of a has no task in rotation.
func (w *wake) awaitGone() {
	lab.Eventually(w, waitLimit, "the agent knows that the task is gone", func() error {
		all, err := w.a.agents.Services(context.Background())
		for _, found := range all {
			if found.ID == model.DefaultStack+"/"+mortal && found.InRotation > 0 {
				return errors.New("it is in rotation")
			}
		}
		return err
	})
}

// lose makes a connection in each way, has the task go, and tells when each was closed.
func (w *wake) lose(l loss) (led, plain known) {
	vip := w.a.vip(mortal, 1)
	w.a.awaitRotation(vip, 1)
	var waitLed, waitPlain func(time.Time) known
	w.inside(func() { waitLed = w.waiterTo(w.led, w.client.path(vip, port), l.limit, w.task) })
	w.outside(func() { waitPlain = w.waiterTo(w.plain, w.client.path(vip, port), l.limit, vip) })
	var waiting sync.WaitGroup
	begun := time.Now()
	waiting.Go(func() { led = waitLed(begun) })
	waiting.Go(func() { plain = waitPlain(begun) })
	l.strike()
	waiting.Wait()
	return led, plain
}

// waiterTo is [bench.waiter] of a path that is to go to that address.
func (w *wake) waiterTo(on *thread, p path, limit time.Duration, to netip.Addr) func(since time.Time) known {
	wait := w.waiter(on, p, limit)
	p.mustLead(to)
	return wait
}

// waiter connects by a path, and returns what waits until the connection is closed.
func (b *bench) waiter(on *thread, p path, limit time.Duration) func(since time.Time) known {
	fd := -1
	lab.Eventually(b, waitLimit, "the task of "+mortal+" answers", func() error {
		return on.do(func() (err error) {
			if fd, err = p.dial(limit); err != nil {
				return err
			}
			if err = askKept(fd, make([]byte, 4096)); err != nil {
				unix.Close(fd)
			}
			return err
		})
	})
	return func(since time.Time) (k known) {
		_ = on.do(func() error {
			defer unix.Close(fd)
			n, err := unix.Read(fd, make([]byte, 1))
			k = known{time.Since(since), err != unix.EAGAIN && n <= 0, err}
			return nil
		})
		return k
	}
}

func (k known) String() string {
	switch {
	case !k.closed:
		return fmt.Sprintf("not within %.1f s", k.after.Seconds())
	case k.how == nil:
		return fmt.Sprintf("closed by the other end after %.3f s", k.after.Seconds())
	}
	return fmt.Sprintf("%v after %.3f s", k.how, k.after.Seconds())
}

// knownText is the median of some, and the worst. One that was never closed took longer than
// any.
func knownText(all []known, limit time.Duration) string {
	var times []time.Duration
	for _, k := range all {
		if !k.closed {
			k.after = time.Duration(1<<63 - 1)
		}
		times = append(times, k.after)
	}
	text := func(t time.Duration) string {
		if t > limit {
			return fmt.Sprintf("> %.0f s", limit.Seconds())
		}
		return fmt.Sprintf("%.2f s", t.Seconds())
	}
	s := text(percentile(times, 50))
	if worst := text(percentile(times, 100)); worst != s {
		s += " (at worst " + worst + ")"
	}
	return s
}
