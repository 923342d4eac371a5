package store

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"shoal/store/etcd"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"golang.org/x/sys/unix"
)

// sleeps is how often the threads of this process, and of the store's, have gone to sleep,
// each time to be woken for something.
func sleeps(t *testing.T, store int) (n int64) {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", store))
	if err != nil || len(files) == 0 {
		t.Fatalf("the store's threads: %v, %v", files, err)
	}
	for _, file := range files {
		b, _ := os.ReadFile(file) // a thread may have ended
		_, rest, _ := strings.Cut(string(b), "\nvoluntary_ctxt_switches:")
		count, _, _ := strings.Cut(rest, "\n")
		switches, _ := strconv.ParseInt(strings.TrimSpace(count), 10, 64)
		n += switches
	}
	return n + u.Nvcsw
}

// TestALoneStoreIsQuietAtRest runs beside no other test: it counts what whole processes
// do. With twenty ticks and ten looks at the database a second it slept 200 times.
func TestALoneStoreIsQuietAtRest(t *testing.T) {
	a := open(t, "a", shortDir(t))
	a.SetLocal(local(ctr("a", "1", "10.0.0.1")))
	settled(t, a)
	const most, seconds = 100, 4
	var got int64
	for range 3 { // now and then there is something to do
		before := sleeps(t, a.server.process.Pid)
		time.Sleep(seconds * time.Second) // nothing is waited for: this is the time measured
		if got = (sleeps(t, a.server.process.Pid) - before) / seconds; got <= most {
			t.Logf("%d sleeps a second", got)
			return
		}
	}
	t.Errorf("with nothing to do it goes to sleep %d times a second, %d are enough", got, most)
}

// TestALoneStoreElectsItselfAtOnce starts one some times: without a campaign each
// takes a tick of raft's clock at least.
func TestALoneStoreElectsItselfAtOnce(t *testing.T) {
	dir := shortDir(t)
	const starts = 5
	fastest := time.Hour
	for range starts {
		began := time.Now()
		s, err := startServer(t.Context(), serverConfig{Dir: dir, Name: "a", Unsynced: true}, slog.New(slog.NewTextHandler(t.Output(), nil)))
		if err != nil {
			t.Fatal(err)
		}
		err = s.ready(t.Context())
		took := time.Since(began)
		t.Log("it serves after", took)
		s.close()
		if err != nil {
			t.Fatal(err)
		}
		fastest = min(fastest, took)
	}
	if most := loneTick * time.Millisecond / 2; fastest > most {
		t.Errorf("of %d starts the fastest took %v, more than %v", starts, fastest, most)
	}
}

// TestFilesThatAProgramStillHoldsAreWaitedFor is about the etcd of an agent that was killed:
// it ends a moment after that.
func TestFilesThatAProgramStillHoldsAreWaitedFor(t *testing.T) {
	dir := shortDir(t)
	start := func() *server {
		s, err := startServer(t.Context(), serverConfig{Dir: dir, Name: "a", Unsynced: true}, slog.New(slog.NewTextHandler(t.Output(), nil)))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s
	}
	start().close()
	files, err := filepath.Glob(filepath.Join(dataDir(dir), "member", "wal", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	held, err := fileutil.TryLockFile(files[0], os.O_WRONLY, fileutil.PrivateFileMode)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { held.Close() })
	start().close()
}

// TestALoneStoreWithAHistoryStartsAgain is about etcd's giving up old entries of its log while
// it takes in the rest.
func TestALoneStoreWithAHistoryStartsAgain(t *testing.T) {
	dir := shortDir(t)
	for start := range 12 {
		s, err := startServer(t.Context(), serverConfig{Dir: dir, Name: "a", Unsynced: true}, slog.New(slog.NewTextHandler(t.Output(), nil)))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		c, err := etcd.Dial([]string{s.endpoint}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 150 {
			if _, err := c.Put(t.Context(), fmt.Sprint("key", i), fmt.Sprint(start)); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
		s.close()
	}
}
