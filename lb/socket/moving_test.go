//go:build e2e

package socket

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel/sockets"
	"shoal/lab/wait"
	"shoal/lb"
)

// datagrams is a socket of a client that is led to the task "one".
func (f *fixture) datagrams(family int) *socket {
	f.t.Helper()
	for range 6 {
		s, err := f.connect(family, unix.SOCK_DGRAM, vip+":80", netip.Addr{})
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(s.close)
		who, _, err := s.hear()
		if err != nil {
			f.t.Fatal(err)
		}
		_ = unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000})
		if who == "one:80" {
			return s
		}
	}
	f.t.Fatal("one never answers")
	return nil
}

// name is the socket's own address.
func (s *socket) name() netip.AddrPort {
	a, err := unix.Getsockname(s.fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return unmapped(a)
}

// servedBy waits until the socket is answered by that one, and thinks that it is the VIP.
func (f *fixture) servedBy(s *socket, want string) {
	f.t.Helper()
	var from netip.AddrPort
	wait.For(f.t, 5*time.Second, "it is answered by "+want, func() bool {
		who, at, err := s.hear()
		from = at
		// An answer on its way while the socket is moved is lost; one that gets another address of its own is connected
		// to nobody for a moment. One that was closed stays so.
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EDESTADDRREQ) {
			f.t.Fatalf("before it is answered by %s: %v", want, err)
		}
		return err == nil && who == want
	})
	at := netip.MustParseAddrPort(vip + ":80")
	if from != at {
		f.t.Errorf("recvmsg says that %s answers, want %s", from, at)
	}
	wait.For(f.t, 5*time.Second, "getpeername says "+at.String()+", after the moment in which it is connected to nobody", func() bool { return s.peer() == at })
}

// serveVIP has the plane behind carry what goes to the VIP.
func (f *fixture) serveVIP() {
	f.t.Helper()
	f.must(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(vip + "/32")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return err
		}
		c, err := net.ListenPacket("udp4", vip+":80")
		if err != nil {
			return err
		}
		f.t.Cleanup(func() { c.Close() })
		go answerAll(c, "behind\n")
		return nil
	})
}

func TestADatagramSocketFollowsItsService(t *testing.T) {
	for family, name := range map[int]string{unix.AF_INET: "IPv4", unix.AF_INET6: "IPv4-mapped"} {
		for _, at := range []string{"0/udp", "80/udp"} {
			t.Run(name+" "+at, func(t *testing.T) {
				f := newFixture(t)
				f.serveVIP()
				f.pass(true, front(at, "rr", "one:80", "two:80"))
				s := f.datagrams(family)
				own := s.name()
				f.pass(false, front(at, "rr", "two:80"))
				f.servedBy(s, "two:80")
				if s.name() != own {
					t.Errorf("its own address was %s and is %s", own, s.name())
				}
				// Who names the VIP means the same task.
				if err := unix.Sendto(s.fd, []byte("?"), 0, sockaddr(family, netip.MustParseAddrPort(vip+":80"))); err != nil {
					t.Error(err)
				}
				if n, _, err := unix.Recvfrom(s.fd, make([]byte, 100), 0); n != len("two:80\n") || err != nil {
					t.Errorf("answer of %d bytes, %v", n, err)
				}
				// From one task to another that comes with the same change.
				f.pass(false, front(at, "rr", "three:80"))
				f.servedBy(s, "three:80")
				// Without a task it is the plane behind that carries it, and goes on to.
				f.pass(false, front(at, "rr"))
				f.servedBy(s, "behind")
				want := netip.AddrPortFrom(netip.MustParseAddr(vip), own.Port())
				wait.For(t, 5*time.Second, "its own address is that of the way to the VIP, "+want.String(), func() bool { return s.name() == want })
				f.servedBy(s, "behind")
				f.pass(false, front(at, "rr", "one:80"))
				f.servedBy(s, "behind")
			})
		}
	}
}

func TestManyDatagramSocketsAreMovedAtOnce(t *testing.T) {
	walks := 0
	f := newFixture(t, func(o *Options) {
		usual := o.Reconnect
		o.Reconnect = func(ctx context.Context, peers map[uint64]sockets.Peer, led func(uint64) netip.AddrPort) (map[uint64]error, error) {
			walks++
			return usual(ctx, peers, led)
		}
	})
	f.pass(true, front("0/udp", "rr", "one"))
	var all []*socket
	for range 200 {
		all = append(all, f.datagrams(unix.AF_INET))
	}
	f.pass(false, front("0/udp", "rr", "two", "three"))
	for _, s := range all[1:] {
		wait.For(t, 5*time.Second, "it is off its task", func() bool { who, _, err := s.hear(); return err == nil && who != "one:80" })
	}
	f.Plane.Close()
	if walks > 2 {
		t.Errorf("there were %d walks for %d sockets", walks, len(all))
	}
}

func TestANewAgentMovesWhatTheFormerLed(t *testing.T) {
	f := newFixture(t)
	f.pass(true, front("0/udp", "rr", "one", "two"))
	s := f.datagrams(unix.AF_INET)
	f.restart()
	f.pass(true, front("0/udp", "rr", "two"))
	f.servedBy(s, "two:80")
}

func TestDownLeavesNoDatagramSocketWithATask(t *testing.T) {
	f := newFixture(t)
	f.serveVIP()
	f.pass(true, front("0/udp", "rr", "one"))
	s, mapped := f.datagrams(unix.AF_INET), f.datagrams(unix.AF_INET6)
	f.Plane.Close()
	if err := Down(f.opts); err != nil {
		t.Fatal(err)
	}
	f.nothingLeft("after Down")
	f.servedBy(s, "behind")
	f.servedBy(mapped, "behind")
}

func TestAnotherLayoutOfMapsLeavesNoDatagramSocketWithATask(t *testing.T) {
	current := layout
	t.Cleanup(func() { layout = current })
	layout = "v0"
	f := newFixture(t)
	f.serveVIP()
	f.pass(true, front("0/udp", "rr", "one"))
	s := f.datagrams(unix.AF_INET)
	layout = current
	f.Plane.Close()
	// As the programs are those of the new layout by then, getpeername says the task.
	o := f.opts
	o.Reconnect = func(ctx context.Context, peers map[uint64]sockets.Peer, led func(uint64) netip.AddrPort) (map[uint64]error, error) {
		return sockets.ReconnectHere(ctx, peers, led) // New has the namespace's thread
	}
	f.must(func() (err error) { f.Plane, err = New(o); return err })
	f.servedBy(s, "behind")
}

func TestADatagramSocketThatCannotBeMovedIsClosed(t *testing.T) {
	needsDestroy(t)
	f := newFixture(t, func(o *Options) {
		o.Reconnect = func(_ context.Context, peers map[uint64]sockets.Peer, _ func(uint64) netip.AddrPort) (map[uint64]error, error) {
			found := map[uint64]error{}
			for cookie := range peers {
				found[cookie] = errors.New("not this one")
			}
			return found, nil
		}
	})
	f.pass(true, front("0/udp", "rr", "one", "two"))
	s := f.datagrams(unix.AF_INET)
	f.pass(false, front("0/udp", "rr", "two"))
	f.cut("to the task that is gone", s)
	if log := f.log.String(); !strings.Contains(log, "not this one") {
		t.Errorf("the log does not say why: %s", log)
	}
}

func TestADatagramSocketIsMovedOnceThatIsPossible(t *testing.T) {
	calls := 0
	f := newFixture(t, func(o *Options) {
		usual := o.Reconnect
		o.Reconnect = func(ctx context.Context, peers map[uint64]sockets.Peer, led func(uint64) netip.AddrPort) (map[uint64]error, error) {
			if calls++; calls == 1 {
				return nil, errors.New("not now")
			}
			return usual(ctx, peers, led)
		}
	})
	f.pass(true, front("0/udp", "rr", "one", "two"))
	s := f.datagrams(unix.AF_INET)
	f.pass(false, front("0/udp", "rr", "two"))
	f.servedBy(s, "two:80")
}

func TestASocketThatItsProcessHasConnectedElsewhereIsLeftAlone(t *testing.T) {
	f := newFixture(t)
	f.pass(true, front("0/udp", "rr", "one"))
	s := f.datagrams(unix.AF_INET)
	cookie, err := unix.GetsockoptUint64(s.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	var was peer
	if err := f.maps.byName["peers"].Lookup(cookie, &was); err != nil {
		t.Fatal(err)
	}
	elsewhere := netip.AddrPortFrom(taskAddrs["three"], 8080)
	if err := unix.Connect(s.fd, sockaddr(unix.AF_INET, elsewhere)); err != nil {
		t.Fatal(err)
	}
	// As if that happened between the look at the maps and the one at the socket.
	if err := f.maps.set("peers", cookie, was); err != nil {
		t.Fatal(err)
	}
	f.pass(false, front("0/udp", "rr", "two"))
	wait.For(t, 5*time.Second, "it is forgotten", func() bool { return f.maps.byName["peers"].Lookup(cookie, &was) != nil })
	if who, _, err := s.hear(); err != nil || who != "three:8080" || s.peer() != elsewhere {
		t.Errorf("answer of %s, %v, as from %s", who, err, s.peer())
	}
}

// TestAMovedSocketIsTheClientThatItWas: its own address, which the kernel chose, does not make it another one.
func TestAMovedSocketIsTheClientThatItWas(t *testing.T) {
	f := newFixture(t)
	with := func(tasks ...string) *lb.Frontend {
		x := front("0/udp", "rr", tasks...)
		x.Affinity = time.Minute
		return x
	}
	f.pass(true, with("one"))
	var all []*socket
	for range 6 {
		all = append(all, f.datagrams(unix.AF_INET))
	}
	f.pass(false, with("two", "three"))
	by := map[string]int{}
	for _, s := range all {
		var who string
		wait.For(t, 5*time.Second, "it is off its task", func() (off bool) {
			var err error
			who, _, err = s.hear()
			return err == nil && who != "one:80"
		})
		by[who]++
	}
	fresh, err := f.ask(unix.SOCK_DGRAM, vip+":80")
	if by[fresh]++; err != nil || len(by) != 1 {
		t.Errorf("one client has the tasks %v, %v", by, err)
	}
	if err := list(f.maps, "affinity", func(k clientKey, _ kept) {
		if k.Source != [4]byte{} {
			t.Errorf("it is taken for a client that is bound to %v", k.Source)
		}
	}); err != nil {
		t.Error(err)
	}
}

// TestNobodyIsMovedBeforeThePlaneBehindHasTakenInTheChange: until then the maps may have no task for it.
func TestNobodyIsMovedBeforeThePlaneBehindHasTakenInTheChange(t *testing.T) {
	f := newFixture(t)
	f.serveVIP()
	f.pass(true, front("0/udp", "rr", "one"))
	s := f.datagrams(unix.AF_INET)
	f.next.pass = func(lb.Delta) {
		f.looked()
		if who, _, err := s.hear(); err != nil || who != "one:80" {
			t.Errorf("during the pass of the plane behind: answer of %s, %v", who, err)
		}
	}
	f.pass(false, front("0/udp", "rr", "two"))
	f.next.pass = nil
	f.servedBy(s, "two:80")
}
