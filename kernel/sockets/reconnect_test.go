package sockets

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/lab/wait"
)

func TestWhatAnAnswerSaysOfCopying(t *testing.T) {
	for answer, want := range map[error]string{
		unix.EBADF:  "",
		unix.EPERM:  "yama.ptrace_scope",
		unix.ENOSYS: "Linux 5.6",
		unix.EMFILE: "copy a file of the first process",
	} {
		err := copyable(-1, answer)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !errors.Is(err, answer)) {
			t.Errorf("%v: %v, want %q", answer, err, want)
		}
	}
}

// TestASocketWithoutIPv4IsNobodysToConnect: its process disconnects it, or connects it by IPv6, while it is looked at.
func TestASocketWithoutIPv4IsNobodysToConnect(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if own, err := ownName(fd); !errors.Is(err, ErrElsewhere) {
		t.Errorf("its own address is %v, %v", own, err)
	}
	if err := unix.Connect(fd, sockaddrOf(unix.AF_INET6, netip.MustParseAddrPort("127.0.0.1:9"))); err != nil {
		t.Fatal(err)
	}
	if own, err := ownName(fd); err != nil || own.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("connected by IPv4, its own address is %v, %v", own, err)
	}
}

// TestAWalkComesBackToProcessesThatTakeLong, which all do whose share is nothing.
func TestAWalkComesBackToProcessesThatTakeLong(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	at := netip.MustParseAddrPort("127.0.0.1:9")
	if err := unix.Connect(fd, sockaddrOf(unix.AF_INET, at)); err != nil {
		t.Fatal(err)
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	var file unix.Stat_t
	if err := unix.Fstat(fd, &file); err != nil {
		t.Fatal(err)
	}
	r := &reconnecting{
		peers: map[uint64]Peer{cookie: {Named: at, Real: at}}, led: func(uint64) netip.AddrPort { return at },
		left: map[uint64]bool{cookie: true}, inodes: map[uint32]bool{uint32(file.Ino): true}, found: map[uint64]error{},
	}
	if err := r.walk(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err, found := r.found[cookie]; !found || err != nil {
		t.Errorf("found %t, %v", found, err)
	}
}

func TestWhenASocketNeedsAnotherAddress(t *testing.T) {
	own, other, third := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.1")
	for what, c := range map[string]struct {
		best, former netip.Addr
		gone, want   bool
	}{
		"the kernel would choose it again":           {own, own, false, false},
		"the kernel chose it, and would now another": {other, own, false, true},
		"the process has bound it":                   {other, third, false, false},
		"nobody has it any more":                     {other, third, true, true},
		"the former peer has no route any more":      {other, netip.Addr{}, false, false},
		"its network is gone":                        {other, netip.Addr{}, true, true},
	} {
		if got := needsAnother(own, c.best, c.former, c.gone); got != c.want {
			t.Errorf("%s: %t", what, got)
		}
	}
}

func TestLinksOfSocketsHaveTheirInodes(t *testing.T) {
	for link, want := range map[string]uint32{
		"socket:[4026531840]": 4026531840, "socket:[1]": 1,
		"socket:[]": 0, "socket:[99999999999]": 0, "pipe:[7]": 0, "/tmp/socket:[7]": 0, "socket:[7] (deleted)": 0,
	} {
		if inode, ok := inodeOf(link); inode != want || ok != (want != 0) {
			t.Errorf("%q: %d, %t", link, inode, ok)
		}
	}
}

func TestNobodyWaitsForCallsThatHang(t *testing.T) {
	end := make(chan struct{})
	hang := func() (int, error) { <-end; return 1, nil }
	at := func(c *calls[int], key int, limit time.Duration) error {
		n, err := within(t.Context(), c, key, limit, hang)
		if err == nil && n != 1 {
			t.Errorf("it returns %d", n)
		}
		return err
	}
	c := &calls[int]{most: 3}
	for key := range 3 {
		if err := at(c, key, time.Millisecond); !errors.Is(err, ErrBusy) {
			t.Errorf("a call that hangs: %v", err)
		}
	}
	begun := time.Now()
	for key, what := range map[int]string{1: "another one with its key", 7: "one more than may be"} {
		if err := at(c, key, time.Minute); !errors.Is(err, ErrBusy) || time.Since(begun) > 10*time.Second {
			t.Errorf("%s: %v after %v", what, err, time.Since(begun))
		}
	}
	close(end)
	wait.For(t, 10*time.Second, "they have ended", func() bool { return at(c, 1, time.Minute) == nil && at(c, 7, time.Minute) == nil })
	done, cancel := context.WithCancel(t.Context())
	cancel()
	never := make(chan struct{})
	defer close(never)
	if _, err := within(done, c, 1, time.Minute, func() (int, error) { <-never; return 1, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("without time: %v", err)
	}
}
