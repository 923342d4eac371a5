package bench

import (
	"fmt"
	"sync"
	"time"

	"shoal/lab"
)

// A prober has so many threads, which take turns to begin a request, whatever becomes of
// those before it.
const probeThreads = 20

// prober makes requests on new connections at a steady pace, from a network namespace.
type prober struct {
	b       *bench
	threads []*thread

	running sync.WaitGroup
	end     chan struct{}
	mu      sync.Mutex
	probes  []probe // in the order they ended
}

// probe is one request.
type probe struct {
	begun, ended time.Time
	err          error
}

func (c *caller) newProber() *prober {
	p := &prober{b: c.bench}
	for range probeThreads {
		p.threads = append(p.threads, c.enter(c.ns))
	}
	return p
}

// start begins to make requests, one every pace. One without an answer when its
// thread's next turn is near has failed. Only a stopped prober starts.
func (p *prober) start(path path, pace time.Duration) {
	p.startWithin(path, pace, (probeThreads-2)*pace)
}

// startWithin is start, where a request fails that takes longer than limit. If that is
// longer than its thread's turn, those after it may be late.
func (p *prober) startWithin(path path, pace, limit time.Duration) {
	p.probes, p.end = nil, make(chan struct{})
	start := time.Now()
	for i, t := range p.threads {
		p.running.Go(func() {
			_ = t.do(func() error {
				p.work(path, start.Add(time.Duration(i)*pace), pace, limit)
				return nil
			})
		})
	}
}

// work makes one thread's requests.
func (p *prober) work(path path, next time.Time, pace, limit time.Duration) {
	buf := make([]byte, 4096)
	for ; ; next = next.Add(probeThreads * pace) {
		select {
		case <-p.end:
			return
		case <-time.After(time.Until(next)):
		}
		begun := time.Now()
		err := path.askOnce(buf, limit)
		p.mu.Lock()
		p.probes = append(p.probes, probe{begun, time.Now(), err})
		p.mu.Unlock()
	}
}

// stop ends it, when what is under way has ended, and returns all requests.
func (p *prober) stop() []probe {
	close(p.end)
	p.running.Wait()
	return p.probes
}

// await waits until n more requests have ended.
func (p *prober) await(n int) {
	want := p.count() + n
	lab.Eventually(p.b, waitLimit, fmt.Sprintf("%d requests end", n), func() error {
		if have := p.count(); have < want {
			return fmt.Errorf("%d to come", want-have)
		}
		return nil
	})
}

func (p *prober) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.probes)
}

// firstAnswer makes requests, one after the other with a pause between, until one is
// answered, and returns when. After a minute it gives up and returns the zero time.
func (t *thread) firstAnswer(path path, pause time.Duration) (at time.Time) {
	_ = t.do(func() error {
		buf := make([]byte, 4096)
		for start := time.Now(); at.IsZero() && time.Since(start) < time.Minute; {
			if path.askOnce(buf, 200*time.Millisecond) == nil {
				at = time.Now()
			} else {
				time.Sleep(pause)
			}
		}
		return nil
	})
	return at
}

// failures are, of requests that began after a moment: how many failed, and how long after
// it the last of them began.
func failures(probes []probe, after time.Time) (n int, last time.Duration) {
	for _, p := range probes {
		if since := p.begun.Sub(after); p.err != nil && since > 0 {
			n++
			last = max(last, since)
		}
	}
	return n, last
}
