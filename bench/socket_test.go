package bench

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTheOtherEndIsTheOneInTheKernelsTable(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	local, want := netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(l.Addr().String())
	if got, err := remoteOf(local); err != nil || got != want {
		t.Errorf("the other end of %s: got %v, %v; want %v", local, got, err, want)
	}
	if got, err := remoteOf(netip.AddrPortFrom(local.Addr(), 0)); err == nil {
		t.Errorf("no connection is from port 0: got %v and no error", got)
	}
}

func TestProcessorTimeIsThatOfClientAndServer(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own := func() time.Duration {
		var c unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &c); err != nil {
			t.Fatal(err)
		}
		return time.Duration(c.Nano())
	}
	const each = 200 * time.Microsecond
	got, err := costOf(os.Getpid(), func() error { // this process is both
		for until := own() + each; own() < until; {
		}
		return nil
	})
	if err != nil || len(got) != 1 || got[0] < 2*each {
		t.Errorf("got %v, %v; want once at least %v", got, err, 2*each)
	}
}

func TestWhatIsNeverClosedTookLongerThanAnything(t *testing.T) {
	const limit = 10 * time.Second
	soon, late, never := known{after: 20 * time.Millisecond, closed: true}, known{after: 9 * time.Second, closed: true}, known{after: limit}
	for _, c := range []struct {
		all  []known
		want string
	}{
		{[]known{soon}, "0.02 s"},
		{[]known{late, soon, soon}, "0.02 s (at worst 9.00 s)"},
		{[]known{never, soon, soon}, "0.02 s (at worst > 10 s)"},
		{[]known{never, never, soon}, "> 10 s"},
	} {
		if got := knownText(c.all, limit); got != c.want {
			t.Errorf("%v: got %q, want %q", c.all, got, c.want)
		}
	}
}
