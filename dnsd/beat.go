package dnsd

import (
	"errors"
	"os"
	"time"

	"shoal/internal/health"
)

// beat has a loop watched that takes questions in from a socket. The socket's
// deadline wakes it when it has to beat, which costs a question nothing.
type beat struct {
	heart    *health.Heart
	deadline func(time.Time) error // sets the socket's
}

// watch has the loop watched that calls it, until [beat.stop].
func (s *Server) watch(deadline func(time.Time) error) beat {
	b := beat{s.opt.Health.Watch("dnsd", stuckAfter), deadline}
	b.next()
	return b
}

// due beats where an error of the socket says that its deadline is over, and tells
// whether that is what it says.
func (b beat) due(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	b.heart.Beat()
	b.next()
	return true
}

func (b beat) next() {
	if every := b.heart.Every(); every > 0 {
		_ = b.deadline(time.Now().Add(every)) // fails for a closed socket only
	}
}

func (b beat) stop() { b.heart.Stop() }
