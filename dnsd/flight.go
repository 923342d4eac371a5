package dnsd

import (
	"context"
	"sync"
)

// flights are the questions that upstreams are being asked: each once, however
// many want to know, and only for as long as anybody does. (singleflight does not
// stop what nobody waits for any more.)
type flights struct {
	mu    sync.Mutex
	under map[string]*flight
}

type flight struct {
	done    chan struct{}
	stop    context.CancelFunc
	waiting int

	answer *packed // once done
	err    error
}

// do returns what ask does for the key, or ctx's cause if that ends before. Asking
// goes on in base's name until the last who waits for it has gone.
func (f *flights) do(ctx, base context.Context, key string, ask func(context.Context) (*packed, error)) (*packed, error) {
	f.mu.Lock()
	fl := f.under[key]
	if fl == nil {
		asking, stop := context.WithCancel(base)
		fl = &flight{done: make(chan struct{}), stop: stop}
		if f.under == nil {
			f.under = map[string]*flight{}
		}
		f.under[key] = fl
		go func() {
			fl.answer, fl.err = ask(asking)
			close(fl.done)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.land(key, fl)
		}()
	}
	fl.waiting++
	f.mu.Unlock()

	select {
	case <-fl.done:
		return fl.answer, fl.err
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		if fl.waiting--; fl.waiting == 0 {
			f.land(key, fl)
		}
		return nil, context.Cause(ctx)
	}
}

// land ends a flight. The next who wants to know starts another.
func (f *flights) land(key string, fl *flight) {
	fl.stop()
	if f.under[key] == fl {
		delete(f.under, key)
	}
}
