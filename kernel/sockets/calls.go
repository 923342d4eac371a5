package sockets

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// calls are calls of the kernel that a process may have last for as long as it wants: by
// holding the lock of its socket, as a send(2) does that waits for memory which the process
// itself provides (userfaultfd(2)); or by executing a program while a file system of its own
// does not let go of a file (pidfd_getfd(2) waits for that). One that hangs goes on by itself, on
// a thread. Nobody waits for it, and nobody makes another call with the same key meanwhile.
type calls[K comparable] struct {
	most int // at once

	mu    sync.Mutex
	begun map[K]bool
}

// within runs f, and waits no longer for it than limit, or ctx. With [ErrBusy] it hangs, or was not
// begun as another one does.
func within[K comparable, T any](ctx context.Context, c *calls[K], key K, limit time.Duration, f func() (T, error)) (v T, err error) {
	if !c.begin(key) {
		return v, fmt.Errorf("%w: a call of before hangs still", ErrBusy)
	}
	type result struct {
		v   T
		err error
	}
	ended := make(chan result, 1)
	go func() {
		v, err := f()
		c.end(key)
		ended <- result{v, err}
	}()
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case r := <-ended:
		return r.v, r.err
	case <-late.C:
		return v, fmt.Errorf("%w: a call has not come back after %v", ErrBusy, limit)
	case <-ctx.Done():
		return v, ctx.Err()
	}
}

func (c *calls[K]) begin(key K) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun[key] || len(c.begun) >= c.most {
		return false
	}
	if c.begun == nil {
		c.begun = map[K]bool{}
	}
	c.begun[key] = true
	return true
}

func (c *calls[K]) end(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.begun, key)
}
