package dockerwatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An engine tells of a container's death when it has cleaned up after it: it
// has taken its network down, among other things. The kernel tells at once, by a
// file descriptor of the container's first process (pidfd_open(2), Linux 5.3),
// and even while the engine is away. So tasks leave the rotation some tenths of a
// second sooner. Where such a descriptor cannot be had, the engine's word is
// waited for.

// life is one run of a container: from a start to its end.
type life struct {
	id      string // the container's
	started time.Time
}

// exits are the lives that are being watched for their end.
type exits struct {
	ended    chan life // received from by Run
	watching map[string]watching
	wait     sync.WaitGroup
	refused  error // the first reason why one could not be watched
}

type watching struct {
	life
	stop context.CancelFunc
}

// follow watches the first processes of the containers that have tasks, and
// those alone. The error, returned once, is why one cannot be watched.
func (e *exits) follow(containers map[string]*facts) (err error) {
	for id, w := range e.watching {
		if f := containers[id]; f == nil || !f.started.Equal(w.started) || len(f.services) == 0 {
			w.stop()
			delete(e.watching, id)
		}
	}
	for id, f := range containers {
		if _, already := e.watching[id]; already || f.pid == 0 || len(f.services) == 0 {
			continue
		}
		ctx, stop := context.WithCancel(context.Background())
		w := watching{life{id, f.started}, stop}
		e.watching[id] = w // tried once
		p, openErr := openProcess(f.pid, id)
		if openErr != nil {
			ended := errors.Is(openErr, unix.ESRCH) || errors.Is(openErr, os.ErrNotExist)
			if !ended && e.refused == nil {
				e.refused, err = openErr, openErr
			}
			continue
		}
		e.wait.Go(func() {
			defer p.Close()
			defer context.AfterFunc(ctx, func() { p.SetReadDeadline(time.Unix(1, 0)) })()
			if awaitExit(p) != nil {
				return
			}
			select {
			case e.ended <- w.life:
			case <-ctx.Done():
			}
		})
	}
	return err
}

// stop ends all watching.
func (e *exits) stop() {
	for _, w := range e.watching {
		w.stop()
	}
	clear(e.watching)
	e.wait.Wait()
}

// openProcess opens a descriptor of a container's first process. The number
// may be one of another machine's or another PID namespace's, or be
// another process's by now: the process has to be in a control group of that
// container.
func openProcess(pid int, container string) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.EINVAL) { // no such flag before Linux 5.10
		if fd, err = unix.PidfdOpen(pid, 0); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d of container %.12s: %w", pid, container, err)
	}
	f := os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of %d", pid))
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err == nil && !strings.Contains(string(groups), container) {
		err = errors.New("it is no process of that container: do the engine and this agent see the same processes?")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("look at process %d of container %.12s: %w", pid, container, err)
	}
	return f, nil
}

// awaitExit returns nil when the process has ended, and an error if the file's
// deadline comes first. A descriptor of a process becomes readable when it ends.
func awaitExit(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var pollErr error
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			pollErr = err
			return true
		}
		return n > 0
	})
	return errors.Join(err, pollErr)
}
