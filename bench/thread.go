package bench

import (
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// thread is an operating system's thread in a network namespace. Sockets made
// there are of that namespace.
type thread struct{ work chan func() }

// enter makes a thread in the namespace of that path.
func (b *bench) enter(path string) *thread {
	return b.newThread("enter the namespace "+path, func() error {
		ns, err := netns.GetFromPath(path)
		if err != nil {
			return err
		}
		defer ns.Close()
		return netns.Set(ns)
	})
}

// newThread makes a thread that does something first, of which what tells.
func (b *bench) newThread(what string, first func() error) *thread {
	t := &thread{make(chan func())}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		// Go's scheduler signals threads, which would cut short system calls with
		// a time limit (signal(7)).
		blocked := unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGURG - 1)}}
		_ = unix.PthreadSigmask(unix.SIG_BLOCK, &blocked, nil)
		entered <- first()
		for f := range t.work {
			f()
		}
	}()
	b.must(what, <-entered)
	b.Cleanup(func() { close(t.work) })
	return t
}

// do runs f on the thread and waits for it.
func (t *thread) do(f func() error) error {
	done := make(chan error)
	t.work <- func() { done <- f() }
	return <-done
}
