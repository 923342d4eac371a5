//go:build e2e

package socket

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/lab"
	"shoal/lab/wait"
	"shoal/lb"
)

// hold opens a connection to that task.
func (f *fixture) hold(kind int, to, task string) *socket {
	f.t.Helper()
	for range 6 {
		s, err := f.connect(unix.AF_INET, kind, to, netip.Addr{})
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(s.close)
		who, _, err := s.hear()
		if err != nil {
			f.t.Fatal(err)
		}
		if strings.HasPrefix(who, task) {
			return s
		}
	}
	f.t.Fatalf("%s: %s never answers", to, task)
	return nil
}

// echo tells whether the connection still carries something.
func (s *socket) echo() error {
	if s.kind == unix.SOCK_DGRAM {
		_, _, err := s.hear()
		return err
	}
	if _, err := unix.Write(s.fd, []byte("still there")); err != nil {
		return err
	}
	n, err := unix.Read(s.fd, make([]byte, 100))
	if err == nil && n == 0 {
		err = errors.New("closed by the task")
	}
	return err
}

// cut waits until the connection is closed.
func (f *fixture) cut(what string, s *socket) {
	f.t.Helper()
	var err error
	wait.For(f.t, 5*time.Second, what+": it is closed", func() bool { err = s.echo(); return err != nil })
	// UDP may say first that it is connected to nobody.
	if !errors.Is(err, unix.ECONNABORTED) && (s.kind != unix.SOCK_DGRAM || !errors.Is(err, unix.EDESTADDRREQ)) {
		f.t.Errorf("%s: it ends with %v, want %v", what, err, unix.ECONNABORTED)
	}
}

// looked waits until the closer has looked at all.
func (f *fixture) looked() {
	f.t.Helper()
	if _, err := f.closer.close(context.Background()); err != nil {
		f.t.Error(err)
	}
}

func needsDestroy(t *testing.T) {
	t.Helper()
	lab.Needs(t, "sock_destroy")
}

func TestConnectionsToTasksThatAreGoneAreClosed(t *testing.T) {
	needsDestroy(t)
	for _, c := range []struct {
		name string
		kind int
		at   string
	}{{"TCP", unix.SOCK_STREAM, "0/tcp"}, {"UDP", unix.SOCK_DGRAM, "0/udp"}, {"TCP to a mapped port", unix.SOCK_STREAM, "80/tcp"}} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			tasks := []string{"one", "two"}
			if c.at == "80/tcp" {
				tasks = []string{"one:8080", "two:8080"}
			}
			f.pass(true, front(c.at, "rr", tasks...))
			gone, kept := f.hold(c.kind, vip+":80", "one"), f.hold(c.kind, vip+":80", "two")
			f.pass(false, front(c.at, "rr", tasks[1]))
			f.cut("to the task that is gone", gone)
			f.looked()
			if err := kept.echo(); err != nil {
				t.Errorf("to the task that stays: %v", err)
			}
			f.pass(false)
			f.cut("of a service that is gone", kept)
			f.looked()
			held, err := f.Held(taskAddrs["one"])
			if err != nil || held.Connections != 1 { // that of the plane behind
				t.Errorf("held after closing: %+v, %v", held, err)
			}
		})
	}
}

func TestADrainingTaskKeepsConnectionsUntilItsDeadline(t *testing.T) {
	needsDestroy(t)
	f := newFixture(t)
	f.pass(true, front("0/tcp", "rr", "one", "two"))
	s := f.hold(unix.SOCK_STREAM, vip+":80", "one")
	x := front("0/tcp", "rr", "one", "two")
	x.Backends[0].Weight, x.Backends[0].Until = 0, time.Now().Add(time.Second)
	f.pass(false, x)
	f.looked()
	if err := s.echo(); err != nil {
		t.Errorf("while it drains: %v", err)
	}
	if got := f.answers(3, vip+":80"); slices.Contains(got, "one") {
		t.Errorf("answers by %v, while one drains", got)
	}
	f.cut("after the deadline", s)
}

func TestConnectionsToAHostThatIsConsideredDeadAreLeftForAWhile(t *testing.T) {
	needsDestroy(t)
	f := newFixture(t)
	f.pass(true, front("0/tcp", "rr", "one", "two"))
	s := f.hold(unix.SOCK_STREAM, vip+":80", "one")
	lost := func(since time.Time) *lb.Frontend {
		x := front("0/tcp", "rr", "one", "two")
		x.Backends[0].Weight, x.Backends[0].Lost = 0, since
		return x
	}
	f.pass(false, lost(time.Now()))
	f.looked()
	if err := s.echo(); err != nil {
		t.Errorf("at first: %v", err)
	}
	f.pass(false, lost(time.Now().Add(time.Second-lostGrace)))
	f.cut("later", s)
}

func TestASocketThatWasOverlookedIsClosed(t *testing.T) {
	needsDestroy(t)
	calls := 0
	f := newFixture(t, func(o *Options) {
		usual := o.Destroy
		o.Destroy = func(ctx context.Context, cookies map[uint64]bool) (int, error) {
			if calls++; calls == 1 {
				return 0, errors.New("not now")
			}
			one := cookies
			if calls == 2 {
				one = map[uint64]bool{}
				for cookie := range cookies {
					if one[cookie] = true; len(one) == 1 {
						break
					}
				}
			}
			return usual(ctx, one)
		}
	})
	f.pass(true, front("0/tcp", "rr", "one"))
	first, second := f.hold(unix.SOCK_STREAM, vip+":80", "one"), f.hold(unix.SOCK_STREAM, vip+":80", "one")
	f.pass(false)
	f.cut("the first", first)
	f.cut("the second", second)
}
