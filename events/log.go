package events

import (
	"context"
	"iter"
	"sync"
	"time"
)

// Kept is how many events a [Log] keeps, the last ones. A reader that is late by
// more misses some.
const Kept = 1024

// Log keeps the last events. Readers go through it by themselves, each at its pace:
// a slow one holds up neither who adds nor the other readers. It is safe for
// concurrent use.
type Log struct {
	mu      sync.Mutex
	ring    [Kept]Event
	next    uint64        // the number of the next event; the first has 1
	more    chan struct{} // closed when there is another event, or no more will come
	closed  bool
	readers int
}

// NewLog makes an empty one.
func NewLog() *Log { return &Log{next: 1, more: make(chan struct{})} }

// Add appends events, and numbers them.
func (l *Log) Add(events ...Event) {
	if len(events) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		e.Number = l.next
		l.ring[l.next%Kept] = e
		l.next++
	}
	l.wake()
}

// wake wakes all readers. It needs the lock.
func (l *Log) wake() {
	close(l.more)
	l.more = make(chan struct{})
}

// Close ends what readers follow.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.wake()
}

// Followed tells whether anybody follows.
func (l *Log) Followed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.readers > 0
}

// Read goes through the events after a time that are kept (zero: none of them), then,
// if it is to follow, through those to come, until ctx ends or the log is closed. What the
// reader was too slow for is counted by an event [Dropped].
func (l *Log) Read(ctx context.Context, since time.Time, follow bool) iter.Seq[Event] {
	l.mu.Lock()
	at := l.next
	if !since.IsZero() {
		for at = l.oldest(); at < l.next && !l.ring[at%Kept].Time.After(since); {
			at++
		}
	}
	l.mu.Unlock()
	return func(yield func(Event) bool) {
		if follow {
			l.follows(1)
			defer l.follows(-1)
		}
		for ctx.Err() == nil {
			e, more, closed := l.get(&at)
			switch {
			case more == nil:
				if !yield(e) {
					return
				}
			case closed || !follow:
				return
			default:
				select {
				case <-ctx.Done():
				case <-more:
				}
			}
		}
	}
}

// get is the event at a number, which it moves on; if there is none yet, more is
// closed when there is.
func (l *Log) get(at *uint64) (e Event, more <-chan struct{}, closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if oldest := l.oldest(); *at < oldest {
		e = Event{Time: l.ring[oldest%Kept].Time, Type: Dropped, Count: oldest - *at}
		*at = oldest
		return e, nil, false
	}
	if *at == l.next {
		return e, l.more, l.closed
	}
	e = l.ring[*at%Kept]
	*at++
	return e, nil, false
}

// oldest is the number of the oldest event that is kept. It needs the lock.
func (l *Log) oldest() uint64 { return l.next - min(l.next-1, Kept) }

func (l *Log) follows(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readers += n
}
