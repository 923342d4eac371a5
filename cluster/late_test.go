package cluster

import (
	"sync"
	"time"
)

// lateness measures how busy the machine is: by how much timers go off late.
// Agents are late by as much, and verdicts with them.
type lateness struct {
	mu     sync.Mutex
	lapses []lapse
}

type lapse struct {
	at time.Time
	by time.Duration
}

var machine lateness

func (l *lateness) measure() {
	const tick = 10 * time.Millisecond
	for {
		start := time.Now()
		<-time.After(tick)
		now := time.Now()
		if by := now.Sub(start) - tick; by > tick/5 { // less is usual
			l.mu.Lock()
			l.lapses = append(l.lapses, lapse{now, by})
			l.mu.Unlock()
		}
	}
}

// since is the sum of what was late since t.
func (l *lateness) since(t time.Time) (all time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.lapses) - 1; i >= 0 && l.lapses[i].at.After(t); i-- {
		all += l.lapses[i].by
	}
	return all
}
