package store

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"golang.org/x/sys/unix"
)

// sleeps is how often the threads of this process have gone to sleep, each time to be
// woken for something.
func sleeps(t *testing.T) int64 {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return u.Nvcsw
}

// TestALoneStoreIsQuietAtRest runs beside no other test: it counts what this whole process
// does. With twenty ticks and ten looks at the database a second it slept 200 times.
func TestALoneStoreIsQuietAtRest(t *testing.T) {
	a := open(t, "a", shortDir(t))
	a.SetLocal(local(ctr("a", "1", "10.0.0.1")))
	settled(t, a)
	const most, seconds = 100, 4
	var got int64
	for range 3 { // now and then there is something to do
		before := sleeps(t)
		time.Sleep(seconds * time.Second) // nothing is waited for: this is the time measured
		if got = (sleeps(t) - before) / seconds; got <= most {
			t.Logf("%d sleeps a second", got)
			return
		}
	}
	t.Errorf("with nothing to do it goes to sleep %d times a second, %d are enough", got, most)
}

// TestALoneStoreElectsItselfAtOnce starts one some times: without a campaign each
// takes a random part of two election timeouts.
func TestALoneStoreElectsItselfAtOnce(t *testing.T) {
	dir := shortDir(t)
	const starts = 5
	var all time.Duration
	for range starts {
		began := time.Now()
		s, err := startServer(serverConfig{dir: dir, name: "a", unsynced: true}, slog.New(slog.NewTextHandler(t.Output(), nil)))
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
		all += took
	}
	if most := starts * loneElection * time.Millisecond / 5; all > most {
		t.Errorf("%d starts took %v, more than %v", starts, all, most)
	}
}

// TestFilesThatAProgramStillHoldsAreWaitedFor is about a program that is being started: it
// has all files of this process until its exec.
func TestFilesThatAProgramStillHoldsAreWaitedFor(t *testing.T) {
	dir := shortDir(t)
	start := func() *server {
		s, err := startServer(serverConfig{dir: dir, name: "a", unsynced: true}, slog.New(slog.NewTextHandler(t.Output(), nil)))
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
