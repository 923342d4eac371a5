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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel/sockets"
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
	// UDP says first that it is connected to nobody, if it was not waiting.
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
	}{{"TCP", unix.SOCK_STREAM, "0/tcp"}, {"TCP to a mapped port", unix.SOCK_STREAM, "80/tcp"}} {
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
	lost := func(until time.Time) *lb.Frontend {
		x := front("0/tcp", "rr", "one", "two")
		x.Backends[0].Weight, x.Backends[0].Lost, x.Backends[0].Until = 0, true, until
		return x
	}
	f.pass(false, lost(time.Now().Add(lb.LostGrace)))
	f.looked()
	if err := s.echo(); err != nil {
		t.Errorf("at first: %v", err)
	}
	f.pass(false, lost(time.Now().Add(time.Second)))
	f.cut("later", s)
}

// A client that waits for a dead host's answer can try again at once, and what the host has answered
// is left to it.
func TestConnectionsThatADeadHostHasNotAnsweredAreClosed(t *testing.T) {
	needsDestroy(t)
	f := newFixture(t)
	f.pass(true, front("0/tcp", "rr", "one"))
	answered := f.hold(unix.SOCK_STREAM, vip+":80", "one")
	x := front("0/tcp", "rr", "one", "two")
	x.Backends[0].Weight, x.Backends[1].Addr = 0, netip.AddrPortFrom(f.silent(), 0)
	f.pass(false, x)
	waiting := f.begin(vip + ":80")
	if err := waiting.connected(100 * time.Millisecond); !errors.Is(err, unix.EINPROGRESS) {
		t.Fatalf("the silent task: %v, want %v", err, unix.EINPROGRESS)
	}
	x = front("0/tcp", "rr", "one", "two")
	x.Backends[1].Addr = netip.AddrPortFrom(f.silent(), 0)
	for i := range x.Backends {
		x.Backends[i].Weight, x.Backends[i].Lost, x.Backends[i].Until = 0, true, time.Now().Add(lb.LostGrace)
	}
	f.pass(false, x)
	if err := waiting.connected(5 * time.Second); !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("a client that waits: %v, want %v", err, unix.ECONNABORTED)
	}
	f.looked()
	if err := answered.echo(); err != nil {
		t.Errorf("what was answered: %v", err)
	}
}

// silent is the address of a task that answers nothing.
func (f *fixture) silent() netip.Addr {
	f.t.Helper()
	const name = "silent"
	at := netip.MustParseAddr("192.0.2.2")
	f.must(func() error {
		if _, err := netlink.LinkByName(name); err == nil {
			return nil
		}
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
			return err
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr("192.0.2.1/24")
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link), netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: at.AsSlice(), HardwareAddr: []byte{2, 0, 0, 0, 0, 2}, State: netlink.NUD_PERMANENT,
		}))
	})
	return at
}

// begin begins a connection by TCP.
func (f *fixture) begin(to string) *socket {
	f.t.Helper()
	s := &socket{kind: unix.SOCK_STREAM}
	f.must(func() (err error) {
		if s.fd, err = unix.Socket(unix.AF_INET, s.kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		if err = unix.Connect(s.fd, sockaddr(unix.AF_INET, netip.MustParseAddrPort(to))); errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
		return err
	})
	f.t.Cleanup(s.close)
	return s
}

// connected is what came of a connection that was begun; EINPROGRESS: nothing yet.
func (s *socket) connected(within time.Duration) error {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}, int(within.Milliseconds()))
	if err != nil {
		return err
	}
	if n == 0 {
		return unix.EINPROGRESS
	}
	code, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

func TestASocketThatWasOverlookedIsClosed(t *testing.T) {
	needsDestroy(t)
	calls := 0
	f := newFixture(t, func(o *Options) {
		usual := o.Destroy
		o.Destroy = func(ctx context.Context, cookies map[uint64]sockets.States) (int, error) {
			if calls++; calls == 1 {
				return 0, errors.New("not now")
			}
			if calls == 2 {
				return 0, nil // as of one whose connect() was led, and has not gone on
			}
			one := cookies
			if calls == 3 {
				one = map[uint64]sockets.States{}
				for cookie, states := range cookies {
					if one[cookie] = states; len(one) == 1 {
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
