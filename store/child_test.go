package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/lab/wait"
)

// TestAnEtcdThatDiesIsStartedAgain: what ends it, a full disk above all, ends its process
// and no other.
func TestAnEtcdThatDiesIsStartedAgain(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t))
	a.SetLocal(local(ctr("a", "1", "10.0.0.1")))
	settled(t, a)
	for range 2 {
		_, srv := a.role()
		if err := unix.Kill(srv.process.Pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another one runs", func() bool {
			_, now := a.role()
			return now != nil && now != srv
		})
		follows(t, a, a)
	}
	if err := a.Down(); err != nil {
		t.Error(err)
	}
}

// TestAnEtcdThatDoesNotStartIsTriedAgain: the host has its store as soon as the reason is
// gone, and says until then what it is.
func TestAnEtcdThatDoesNotStartIsTriedAgain(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	if err := os.WriteFile(dataDir(dir), []byte("no folder"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := open(t, "a", dir)
	if err := a.Down(); err == nil || !strings.Contains(err.Error(), dataDir(dir)) {
		t.Errorf("it is down: %v", err)
	}
	if h := a.Health(); h.Embedded || h.Connected || !strings.Contains(h.Error, "not a directory") {
		t.Errorf("it says %+v", h)
	}
	if err := os.Remove(dataDir(dir)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool { return a.Down() == nil })
	a.SetLocal(local(ctr("a", "1", "10.0.0.1")))
	settled(t, a)
}

// TestTheOnlyServerOfAClusterStartsWithoutItsEtcd: its disk may be full when the agent starts. It goes on without, as a host
// that is alone does.
func TestTheOnlyServerOfAClusterStartsWithoutItsEtcd(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	s := cl.open("s")
	if err := s.Serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.SetLocal(local(ctr("s", "1", "10.0.0.1")))
	settled(t, s)
	s.Close()
	data := dataDir(cl.dirs["s"])
	if err := os.Rename(data, data+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(data, []byte("no folder"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = cl.open("s")
	if err := s.Down(); err == nil || !strings.Contains(err.Error(), data) {
		t.Errorf("it is down: %v", err)
	}
	if err := os.Remove(data); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(data+".away", data); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool { return s.Down() == nil })
	s.SetLocal(local(ctr("s", "2", "10.0.0.2")))
	settled(t, s)
}

// TestAnEtcdEndsWithItsAgent, however that ends: its end of the connection is closed then.
func TestAnEtcdEndsWithItsAgent(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t))
	a.SetLocal(local())
	settled(t, a)
	_, srv := a.role()
	if err := srv.agent.Close(); err != nil {
		t.Fatal(err)
	}
	wait.For(t, 10*time.Second, "it has ended", func() bool { return srv.stopped() })
}

// TestAnEtcdThatHangsEndsWithItsAgent: it does not notice that its end of the connection is closed.
func TestAnEtcdThatHangsEndsWithItsAgent(t *testing.T) {
	const dir = "SHOAL_TEST_AGENT"
	if at := os.Getenv(dir); at != "" { // the agent
		_, srv := open(t, "a", at).role()
		if err := os.WriteFile(filepath.Join(at, "pid"), []byte(strconv.Itoa(srv.process.Pid)), 0o600); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	// Where nobody of its session is its parent any more, the kernel wakes a process that is stopped.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	at := shortDir(t)
	agent := exec.Command("/proc/self/exe", "-test.run=^TestAnEtcdThatHangsEndsWithItsAgent$")
	agent.Env = append(os.Environ(), dir+"="+at)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer agent.Process.Kill()
	pid := 0
	eventually(t, "its etcd runs", func() bool {
		b, _ := os.ReadFile(filepath.Join(at, "pid"))
		pid, _ = strconv.Atoi(string(b))
		return pid > 0
	})
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait() // "signal: killed"
	defer func() { _ = unix.Kill(pid, unix.SIGKILL) }()
	eventually(t, "its etcd has ended", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(b), ") Z ")
	})
}

func TestWhatToDoAboutAStoreThatDoesNotStart(t *testing.T) {
	for _, c := range []struct {
		reason, says string
		served       bool
	}{
		{"write /var/lib/shoal/etcd/member/snap/db: no space left on device", "free some room", false},
		{"listen tcp 192.0.2.1:2380: bind: address already in use", "", true},
		{"walpb: crc mismatch", "starts with an empty store", false},
		{"walpb: crc mismatch", "shoal server recover", true},
	} {
		if got := advice(c.reason, c.served); !strings.Contains(got, c.says) || c.says == "" && got != "" {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// TestAnEtcdThatHangsInItsStartHoldsNobodyUp: it waits without end for a database that another process has locked.
func TestAnEtcdThatHangsInItsStartHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	a := open(t, "a", dir)
	a.SetLocal(local())
	settled(t, a)
	a.Close()
	database, err := os.OpenFile(filepath.Join(dataDir(dir), "member", "snap", "db"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer database.Close()
	if err := unix.Flock(int(database.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	opened := make(chan error, 1)
	go func() {
		s, err := Open(ctx, a.o)
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("opened: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for its etcd after its context has ended")
	}
	if err := unix.Flock(int(database.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	again := open(t, "a", dir)
	again.SetLocal(local())
	settled(t, again)
}
