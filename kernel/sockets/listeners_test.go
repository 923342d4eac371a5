package sockets

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"shoal/model"
)

// BenchmarkProcesses is one walk through the open files of all processes, whatever it looks for.
func BenchmarkProcesses(b *testing.B) {
	none := map[uint32]bool{0: true}
	for b.Loop() {
		Processes(none)
	}
}

func TestListenersAreFoundWithTheirProcess(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	// A connection from the port is not one that waits for clients on it.
	c, err := net.Dial("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ls, err := Listeners(map[model.Protocol]bool{model.TCP: true})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, l := range ls {
		if l.Addr.Port() == c.LocalAddr().(*net.TCPAddr).AddrPort().Port() {
			t.Errorf("a connected socket was listed: %v", l)
		}
		if l.Addr != at {
			continue
		}
		found = true
		if who := Processes(map[uint32]bool{l.Inode: true})[l.Inode]; !strings.HasPrefix(who, myself(t)) {
			t.Errorf("the process is %q", who)
		}
	}
	if !found {
		t.Errorf("%s is not among %v", at, ls)
	}
}

// myself is how this process is named among those of the host.
func myself(t *testing.T) string {
	t.Helper()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(name)) + " (pid "
}

func TestAListenerOfIPv6AloneIsToldApart(t *testing.T) {
	for network, only := range map[string]bool{"tcp": false, "tcp6": true} {
		l, err := net.Listen(network, "[::]:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ls, err := Listeners(map[model.Protocol]bool{model.TCP: true})
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, have := range ls {
			if have.Addr.Port() == l.Addr().(*net.TCPAddr).AddrPort().Port() {
				found = true
				if have.V6Only != only {
					t.Errorf("%s: IPv6 alone is %t", network, have.V6Only)
				}
			}
		}
		if !found {
			t.Errorf("%s is not among %v", l.Addr(), ls)
		}
	}
}

func TestListenersSayWhoMadeThem(t *testing.T) {
	want := uint32(os.Geteuid())
	if want == 0 {
		// The user of the files that this thread makes, sockets among them.
		want = 65534
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if _, err := unix.SetfsuidRetUid(int(want)); err != nil {
			t.Fatal(err)
		}
		defer unix.SetfsuidRetUid(0)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ls, err := Listeners(map[model.Protocol]bool{model.TCP: true})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(ls, func(have Listener) bool { return have.Addr == l.Addr().(*net.TCPAddr).AddrPort() })
	if i < 0 || ls[i].UID != want {
		t.Errorf("no listener of user %d on %s: %+v", want, l.Addr(), ls)
	}
}

// manyFilesEnv has this binary open many files, and look through them.
const manyFilesEnv = "SHOAL_TEST_MANY_FILES"

// TestAWalkTakesNoMoreMemoryWithMoreFiles in a process of its own, whose heap nothing
// else has made larger before.
func TestAWalkTakesNoMoreMemoryWithMoreFiles(t *testing.T) {
	if os.Getenv(manyFilesEnv) != "" {
		walkManyFiles(t)
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), manyFilesEnv+"=1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

func walkManyFiles(t *testing.T) {
	const files, each, most = 200_000, 10_000, 8 << 20
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: each + 1000, Max: each + 1000}); err != nil {
		t.Fatalf("a process cannot have %d files open here: %v", each, err)
	}
	one, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	for range each {
		if _, err := unix.Dup(int(one.Fd())); err != nil {
			t.Fatal(err)
		}
	}
	for range files/each - 1 { // processes that inherit them
		heir := exec.Command("sleep", "1000")
		if err := heir.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = heir.Process.Kill(), heir.Wait() }()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	Processes(map[uint32]bool{0: true}) // no socket has it: the walk is a whole one
	runtime.ReadMemStats(&after)
	grown := int64(after.HeapSys) - int64(before.HeapSys)
	t.Logf("the heap has grown by %d bytes", grown)
	if grown > most {
		t.Errorf("that is more than %d, for %d files", most, files)
	}
}

func TestAWalkEndsWithWhatIsWanted(t *testing.T) {
	wanted := map[uint32]bool{}
	for range 3 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		raw, err := l.(*net.TCPListener).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var stat unix.Stat_t
		if failed := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &stat) }); failed != nil || err != nil {
			t.Fatal(failed, err)
		}
		wanted[uint32(stat.Ino)] = true
	}
	for _, enough := range []int{1, 2} {
		visited := map[uint32]bool{}
		openSockets(t.Context(), os.Getpid(), wanted, func(_ int, inode uint32) (more bool) {
			visited[inode] = true
			return len(visited) < enough
		})
		if len(visited) != enough {
			t.Errorf("%d sockets were visited, want %d", len(visited), enough)
		}
	}
	names := Processes(wanted)
	for inode := range wanted {
		if !strings.HasPrefix(names[inode], myself(t)) {
			t.Errorf("the process is %q", names[inode])
		}
	}
	if len(wanted) != 3 {
		t.Errorf("what is wanted was changed: %v", wanted)
	}
}
