//go:build e2e

package socket

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/lab/wait"
	"shoal/lb"
)

func TestEveryKindOfSocketIsLedAndSeesTheVIP(t *testing.T) {
	f := newFixture(t)
	f.pass(true, front("0/tcp", "rr", "one"), front("0/udp", "rr", "two"), front("443/tcp", "rr", "three:8080"))
	for _, c := range []struct {
		name         string
		family, kind int
		port, want   string
	}{
		{"TCP", unix.AF_INET, unix.SOCK_STREAM, "80", "one:80"},
		{"TCP to another port", unix.AF_INET, unix.SOCK_STREAM, "8080", "one:8080"},
		{"TCP to a mapped port", unix.AF_INET, unix.SOCK_STREAM, "443", "three:8080"},
		{"TCP of an IPv6 socket", unix.AF_INET6, unix.SOCK_STREAM, "80", "one:80"},
		{"TCP of an IPv6 socket to a mapped port", unix.AF_INET6, unix.SOCK_STREAM, "443", "three:8080"},
		{"UDP", unix.AF_INET, unix.SOCK_DGRAM, "80", "two:80"},
		{"UDP of an IPv6 socket", unix.AF_INET6, unix.SOCK_DGRAM, "80", "two:80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := f.connect(c.family, c.kind, vip+":"+c.port, netip.Addr{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			want := netip.MustParseAddrPort(vip + ":" + c.port)
			who, from, err := s.hear()
			if err != nil || who != c.want {
				t.Errorf("answer of %s, %v; want %s", who, err, c.want)
			}
			if c.kind == unix.SOCK_DGRAM && from != want {
				t.Errorf("recvmsg says that %s answers, want %s", from, want)
			}
			if got := s.peer(); got != want {
				t.Errorf("getpeername says %s, want %s", got, want)
			}
		})
	}
}

func TestTasksAreTakenInTurn(t *testing.T) {
	f := newFixture(t)
	f.pass(true, front("0/tcp", "rr", "one", "two", "three"))
	got := f.answers(6, vip+":80")
	want := []string{"one", "two", "three", "one", "two", "three"}
	if !slices.Equal(got, want) {
		t.Errorf("answers by %v, want %v", got, want)
	}
}

func TestWeightsAreKept(t *testing.T) {
	f := newFixture(t)
	x := front("0/tcp", "wrr", "one", "two")
	x.Backends[0].Weight = 3
	f.pass(true, x)
	if got := shares(f.answers(8, vip+":80")); got["one"] != 6 || got["two"] != 2 {
		t.Errorf("answers by task %v, want 6 and 2", got)
	}
	x = front("0/tcp", "wrr", "one", "two")
	x.Backends[0].Weight = 0
	f.pass(false, x)
	if got := shares(f.answers(3, vip+":80")); got["two"] != 3 {
		t.Errorf("answers by task %v, want the one with weight", got)
	}
}

func shares(answers []string) map[string]int {
	n := map[string]int{}
	for _, a := range answers {
		n[a]++
	}
	return n
}

func TestAPortOfItsOwnIsNotLedAsEveryOtherOne(t *testing.T) {
	f := newFixture(t)
	idle := front("80/tcp", "rr", "two")
	idle.Backends[0].Weight = 0
	f.pass(true, front("0/tcp", "rr", "one"), idle)
	f.notLed(unix.SOCK_STREAM, vip+":80")
	if got := f.answers(1, vip+":8080"); got[0] != "one" {
		t.Errorf("another port is answered by %s", got[0])
	}
	f.pass(false, front("0/tcp", "rr", "one"), front("80/tcp", "rr", "two"))
	if got := f.answers(1, vip+":80"); got[0] != "two" {
		t.Errorf("the named port is answered by %s", got[0])
	}
	f.pass(false, front("0/tcp", "rr", "one"), front("80/tcp", "lc", "two"))
	f.notLed(unix.SOCK_STREAM, vip+":80")
	f.pass(false, front("0/tcp", "rr", "one"))
	if got := f.answers(1, vip+":80"); got[0] != "one" {
		t.Errorf("the port that is not named any more is answered by %s", got[0])
	}
}

func TestWhatIsNotLed(t *testing.T) {
	peers := netip.MustParseAddr("10.96.0.11")
	f := newFixture(t, func(o *Options) { o.DNSPeers = peers })
	k := front("0/tcp", "rr").Key
	dns := front("53/udp", "rr", "one:80")
	dns.VIP = peers
	f.pass(true, front("0/tcp", "rr", "one"), front("0/udp", "rr", "one"), dns)
	t.Run("the other hosts' DNS servers", func(t *testing.T) {
		f.notLed(unix.SOCK_DGRAM, "10.96.0.11:53")
	})
	t.Run("another address", func(t *testing.T) {
		f.notLed(unix.SOCK_STREAM, "10.96.0.51:80")
	})
	t.Run("UDP that is not connected", func(t *testing.T) {
		err := f.do(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Sendto(fd, []byte("?"), 0, sockaddr(unix.AF_INET, netip.MustParseAddrPort(vip+":80")))
		})
		if !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("%v, want %v", err, unix.ENETUNREACH)
		}
	})
	t.Run("UDP that could not be connected again", func(t *testing.T) {
		f.opts.Reconnect = nil
		f.restart()
		f.pass(true, front("0/tcp", "rr", "one"), front("0/udp", "rr", "one"))
		f.notLed(unix.SOCK_DGRAM, vip+":80")
		if n := attachedTo(t, f.opts.Cgroup); n != len(hooks)-3 {
			t.Errorf("%d programs are attached, want %d: those for datagrams are not", n, len(hooks)-3)
		}
		if got := f.answers(1, vip+":80"); got[0] != "one" {
			t.Errorf("TCP is answered by %s", got[0])
		}
	})
	t.Run("a VIP whose last task left", func(t *testing.T) {
		f.pass(false, front("0/tcp", "rr"))
		f.notLed(unix.SOCK_STREAM, vip+":80")
	})
	t.Run("a slot that is not there", func(t *testing.T) {
		f.pass(false, front("0/tcp", "rr", "one"))
		if err := f.maps.remove("slots", slotKey{f.table.entries[k].filling, 0}); err != nil {
			t.Fatal(err)
		}
		f.notLed(unix.SOCK_STREAM, vip+":80")
	})
	// An entry that is used again for another service looks like this for a moment.
	others := [4]byte{10, 96, 9, 9}
	t.Run("a slot of another service", func(t *testing.T) {
		if err := f.maps.set("slots", slotKey{f.table.entries[k].filling, 0}, slot{VIP: others, To: target{Addr: taskAddrs["one"].As4()}}); err != nil {
			t.Fatal(err)
		}
		f.notLed(unix.SOCK_STREAM, vip+":80")
	})
	t.Run("an entry of another service", func(t *testing.T) {
		f.pass(true, front("0/tcp", "rr", "one"))
		f.answers(1, vip+":80")
		e := f.table.entries[k]
		s := e.encode(k, e.number, e.filling)
		s.VIP = others
		if err := f.maps.set("services", keyOf(k), s); err != nil {
			t.Fatal(err)
		}
		f.notLed(unix.SOCK_STREAM, vip+":80")
	})
}

func TestAConnectedSocketThatNamesTheVIPMeansItsTask(t *testing.T) {
	f := newFixture(t)
	f.pass(true, front("0/udp", "rr", "one", "two", "three"))
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		s, err := f.connect(family, unix.SOCK_DGRAM, vip+":80", netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		led, _, err := s.hear()
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := unix.Sendto(s.fd, []byte("?"), 0, sockaddr(family, netip.MustParseAddrPort(vip+":80"))); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 100)
			n, _, err := unix.Recvfrom(s.fd, b, 0)
			if got := strings.TrimSpace(string(b[:max(n, 0)])); err != nil || got != led {
				t.Errorf("answer of %q, %v; the socket is led to %s", got, err, led)
			}
		}
	}
}

func TestHashingTellsClientsApart(t *testing.T) {
	f := newFixture(t)
	f.pass(true, front("0/tcp", "mh", "one", "two", "three"))
	if got := shares(f.answers(5, vip+":80")); len(got) != 1 {
		t.Errorf("one client has the tasks %v", got)
	}
	spaces := map[string]int{}
	for range 12 {
		r := newRoom(t)
		r.serve(80)
		for task := range shares(r.answers(2, vip+":80")) {
			spaces[task]++
		}
	}
	if sum := spaces["one"] + spaces["two"] + spaces["three"]; len(spaces) < 2 || sum != 12 {
		t.Errorf("12 namespaces by task: %v", spaces)
	}
	sources := map[string]int{}
	for i := range byte(12) {
		s, err := f.connect(unix.AF_INET, unix.SOCK_STREAM, vip+":80", netip.AddrFrom4([4]byte{127, 0, 1, i + 1}))
		if err != nil {
			t.Fatal(err)
		}
		who, _, _ := s.hear()
		s.close()
		sources[who]++
	}
	if len(sources) < 2 {
		t.Errorf("12 addresses that sockets are bound to by task: %v", sources)
	}
}

func TestAClientKeepsItsTaskWhileThatIsInRotation(t *testing.T) {
	f := newFixture(t)
	other := newRoom(t)
	other.serve(80)
	tasks := []string{"one", "two", "three"}
	with := func(out string) *lb.Frontend {
		x := front("0/tcp", "rr", tasks...)
		x.Affinity = time.Minute
		for i, task := range tasks {
			if task == out {
				x.Backends[i].Weight = 0
			}
		}
		return x
	}
	f.pass(true, with(""))
	first := f.answers(4, vip+":80")
	if len(shares(first)) != 1 {
		t.Errorf("answers by %v, want one task", first)
	}
	if second := other.answers(4, vip+":80"); len(shares(second)) != 1 || second[0] == first[0] {
		t.Errorf("another client is answered by %v, want one task that is not %s: its turn", second, first[0])
	}
	f.pass(false, with(first[0]))
	moved := f.answers(4, vip+":80")
	if len(shares(moved)) != 1 || moved[0] == first[0] {
		t.Errorf("answers by %v, while %s is out of rotation", moved, first[0])
	}
	f.pass(false, with(""))
	if got := f.answers(3, vip+":80"); shares(got)[moved[0]] != 3 {
		t.Errorf("answers by %v after %s came back; want %s, which the client keeps", got, first[0], moved[0])
	}
}

func TestAClientKeepsItsTaskForItsTime(t *testing.T) {
	f := newFixture(t)
	x := front("0/tcp", "rr", "one", "two")
	x.Affinity = time.Second
	f.pass(true, x)
	first := f.answers(1, vip+":80")[0]
	wait.For(t, 5*time.Second, "the next turn is the other's", func() bool {
		idle := time.NewTimer(1200 * time.Millisecond)
		defer idle.Stop()
		<-idle.C
		return f.answers(1, vip+":80")[0] != first
	})
}

func TestASocketIsForgottenWithItsConnection(t *testing.T) {
	f := newFixture(t)
	f.pass(true, front("0/tcp", "rr", "one"), front("0/udp", "rr", "one"))
	peers := func() (n int) {
		if err := list(f.maps, "peers", func(uint64, peer) { n++ }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := peers()
	tcp, err := f.connect(unix.AF_INET, unix.SOCK_STREAM, vip+":80", netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	udp, err := f.connect(unix.AF_INET6, unix.SOCK_DGRAM, vip+":80", netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if n := peers() - before; n != 2 {
		t.Errorf("%d sockets are remembered, want 2", n)
	}
	tcp.close()
	if n := peers() - before; n != 1 {
		t.Errorf("%d sockets are remembered after one was closed, want 1", n)
	}
	elsewhere := netip.AddrPortFrom(taskAddrs["two"], 80)
	if err := unix.Connect(udp.fd, sockaddr(unix.AF_INET6, netip.AddrPortFrom(netip.AddrFrom16(elsewhere.Addr().As16()), 80))); err != nil {
		t.Fatal(err)
	}
	if n, at := peers()-before, udp.peer(); n != 0 || at != elsewhere {
		t.Errorf("%d sockets are remembered, and the one that connected elsewhere has the peer %s; want none, %s", n, at, elsewhere)
	}
	udp.close()

	beyond, err := f.connect(unix.AF_INET6, unix.SOCK_DGRAM, vip+":80", netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	defer beyond.close()
	if n := peers() - before; n != 1 {
		t.Errorf("%d sockets are remembered, want 1", n)
	}
	// Whether IPv6 has a way there or not.
	_ = unix.Connect(beyond.fd, sockaddr(unix.AF_INET6, netip.MustParseAddrPort("[::1]:80")))
	if n := peers() - before; n != 0 {
		t.Errorf("%d sockets are remembered after one connected by IPv6, want none", n)
	}
}
