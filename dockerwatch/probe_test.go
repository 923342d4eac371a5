package dockerwatch

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"shoal/model"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// probeOf is one of a service of that name, that begins now.
func probeOf(name string, limit time.Duration, p plan) probe {
	now := time.Now()
	return probe{
		taskKey: taskKey{"one", model.ServiceID{Stack: model.DefaultStack, Name: name}},
		life:    now, since: now, limit: limit, addr: loopback, plan: p,
	}
}

// tried are probes that a test hears of.
func tried(t *testing.T, attempt func(context.Context, *trial) bool) *probes {
	p := newProbes()
	if attempt != nil {
		p.attempt = attempt
	}
	t.Cleanup(p.stop)
	return &p
}

// next is what is told next.
func next(t *testing.T, p *probes) probed {
	t.Helper()
	for {
		select {
		case n := <-p.news:
			if p.current(&n) {
				return n
			}
		case <-time.After(time.Minute):
			t.Fatal("nothing is told of a probe")
		}
	}
}

// freePort is a port that nobody listens on just now.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func listen(t *testing.T, port uint16) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestAProbeEndsWhenTheLastPortAccepts(t *testing.T) {
	p := tried(t, nil)
	first, second := freePort(t), freePort(t)
	listen(t, first)
	p.begin([]probe{probeOf("web", time.Minute, plan{proto: model.TCP, all: []uint16{first, second}})})
	if n := next(t, p); n.outcome != refused || !n.first {
		t.Fatalf("with one of two ports: %+v", n)
	}
	l := listen(t, second)
	if n := next(t, p); n.outcome != accepted || n.first {
		t.Fatalf("with both: %+v", n)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || err.Error() != "EOF" {
		t.Errorf("what the process reads of the connection: %d octets, %v; want its end", n, err)
	}
}

func TestOneOfARangeWillDo(t *testing.T) {
	p := tried(t, nil)
	closed, open := freePort(t), freePort(t)
	listen(t, open)
	p.begin([]probe{probeOf("web", time.Minute, plan{proto: model.TCP, any: []uint16{closed, open}})})
	if n := next(t, p); n.outcome != accepted || !n.first {
		t.Errorf("%+v", n)
	}
}

func TestTheLimitIsToldOnceAndTryingGoesOn(t *testing.T) {
	var attempts atomic.Int32
	ready := make(chan struct{})
	p := tried(t, func(context.Context, *trial) bool {
		attempts.Add(1)
		select {
		case <-ready:
			return true
		default:
			return false
		}
	})
	p.begin([]probe{probeOf("web", 300*time.Millisecond, plan{proto: model.TCP, all: []uint16{1}})})
	if n := next(t, p); n.outcome != refused {
		t.Fatalf("first: %+v", n)
	}
	n := next(t, p)
	if n.outcome != late || n.fault == "" {
		t.Fatalf("at the limit: %+v", n)
	}
	if took := time.Since(n.since); took < 300*time.Millisecond {
		t.Errorf("the limit was over after %v", took)
	}
	close(ready)
	if n := next(t, p); n.outcome != accepted {
		t.Fatalf("after it: %+v", n)
	}
	if n := attempts.Load(); n > 20 {
		t.Errorf("%d attempts", n)
	}
}

// One that never answers has a goroutine of its own.
func TestASlowProbeHoldsUpNobody(t *testing.T) {
	p := tried(t, func(ctx context.Context, t *trial) bool {
		if t.service.Name == "slow" {
			<-ctx.Done()
		}
		return true
	})
	for i := range 300 {
		slow := probeOf("slow", time.Minute, plan{})
		slow.container = fmt.Sprint(i)
		p.begin([]probe{slow})
	}
	p.begin([]probe{probeOf("quick", time.Minute, plan{})})
	if n := next(t, p); n.service.Name != "quick" || n.outcome != accepted {
		t.Errorf("%+v", n)
	}
	time.AfterFunc(holdTime, func() {}) // the hold is over by itself:
	deadline := time.Now().Add(time.Minute)
	for p.fresh() && time.Now().Before(deadline) {
		<-p.hold.C
	}
	if p.fresh() {
		t.Error("those that do not answer are still waited for")
	}
}

func TestAttemptsOfAllTogetherAreBounded(t *testing.T) {
	var attempts atomic.Int32
	p := tried(t, func(context.Context, *trial) bool { attempts.Add(1); return false })
	begun := time.Now()
	var all []probe
	for i := range 2000 {
		one := probeOf("web", time.Hour, plan{})
		one.container = fmt.Sprint(i)
		all = append(all, one)
	}
	p.begin(all)
	for attempts.Load() < 1000 {
		next(t, p)
	}
	if n, most := float64(attempts.Load()), attemptBurst+attemptRate*time.Since(begun).Seconds(); n > most {
		t.Errorf("%v attempts, %v is the most", n, most)
	}
}

func TestWhatIsWantedNoMoreIsNotToldOf(t *testing.T) {
	release := make(chan struct{})
	p := tried(t, func(ctx context.Context, t *trial) bool {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return true
	})
	old := probeOf("web", time.Minute, plan{})
	p.follow([]probe{old})
	moved := old
	moved.addr = netip.MustParseAddr("127.0.0.2")
	p.follow([]probe{moved})
	close(release)
	if n := next(t, p); n.addr != moved.addr {
		t.Errorf("told of %+v", n)
	}
	p.follow(nil)
	if len(p.running) > 0 {
		t.Errorf("still tried: %v", p.running)
	}
}

// A process that cannot be looked at is taken for ready, as it was before there were
// probes.
func TestWhereNothingCanBeKnownATaskIsReady(t *testing.T) {
	for _, pid := range []int{0, os.Getpid()} { // of no container
		p := tried(t, nil)
		for _, one := range []plan{{listens: true}, {proto: model.UDP, all: []uint16{53}}} {
			pr := probeOf("web", time.Minute, one)
			pr.pid = pid
			p.follow([]probe{pr})
			if n := next(t, p); n.outcome != accepted {
				t.Errorf("process %d, %+v: %+v", pid, one, n)
			}
		}
	}
}

func TestATaskStartsUntilItsPortsAccept(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web")
	ready := map[string]chan struct{}{"a": make(chan struct{}), "b": make(chan struct{}), "c": make(chan struct{})}
	h := watchReady(t, e, func(ctx context.Context, t *trial) bool {
		select {
		case <-ready[t.container]:
			return true
		default:
		}
		if t.container == "c" { // it does not answer
			<-ctx.Done()
		}
		return false
	})
	h.wants("a:starting")
	close(ready["a"])
	h.wants("a:running")
	e.start("c", "service=web")
	h.wants("a:running c:starting")
	close(ready["b"])
	e.start("b", "service=web")
	h.wants("a:running b:running c:starting")
	h.never("a:running b:starting c:starting") // it is told of once
	e.die("a")
	h.wants("b:running c:starting")
}

func TestTheEngineNeedNotBeThereForATaskToBeReady(t *testing.T) {
	e := newFakeEngine()
	e.run("a", "service=web")
	ready := make(chan struct{})
	h := watchReady(t, e, func(context.Context, *trial) bool {
		select {
		case <-ready:
			return true
		default:
			return false
		}
	})
	h.wants("a:starting")
	e.cut(fmt.Errorf("away"))
	h.until("away", func() bool { return h.errs[len(h.errs)-1] != nil })
	close(ready)
	h.wants("a:running")
}

// watchReady is watch where tasks wait for their ports, which attempt tries.
func watchReady(t *testing.T, e *fakeEngine, attempt func(context.Context, *trial) bool) *heard {
	return watchBy(t, e, func(o *Options) { o.Ready = time.Minute }, func(w *Watcher) { w.probes.attempt = attempt })
}
