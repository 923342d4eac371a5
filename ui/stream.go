package ui

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// Bounds of the stream.
const (
	flushPeriod  = 500 * time.Millisecond // between two events: what changes meanwhile is one
	mostClients  = 32
	queueLen     = 16               // events that a client may be late by; then it is cut off
	writeTime    = 10 * time.Second // for one event to be taken
	silencePause = 15 * time.Second // a comment is sent after so long without an event, to find out who has left
)

// stream makes one document for all who look, while there is anybody.
type stream struct {
	source Source
	log    *slog.Logger

	mu      sync.Mutex
	clients map[*client]bool
	rows    rows // as of now
	changed rows // since the last event
	stop    context.CancelFunc
}

// client is one who looks.
type client struct {
	events chan []byte   // of capacity queueLen
	late   chan struct{} // closed when the client is cut off
	fresh  bool          // it has not had the whole document
}

func newStream(s Source, log *slog.Logger) *stream {
	return &stream{source: s, log: log, clients: map[*client]bool{}}
}

// join adds a client; false: there are too many. The first has the document made
// from now on, for as long as ctx lasts or a client is there.
func (s *stream) join(ctx context.Context) (*client, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.clients) >= mostClients {
		return nil, false
	}
	c := &client{events: make(chan []byte, queueLen), late: make(chan struct{}), fresh: true}
	s.clients[c] = true
	if s.stop == nil {
		ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
		s.rows, s.changed = rows{}, rows{}
		go s.flushAll(ctx)
		go s.feed(ctx)
	}
	return c, true
}

func (s *stream) leave(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
	if len(s.clients) == 0 && s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// put takes in sections of the document. What a feed that was stopped still has
// to say is dropped.
func (s *stream) put(ctx context.Context, d *Document) {
	r, err := d.encode()
	if err != nil {
		s.log.Warn("the page", "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() == nil {
		s.rows.update(r, s.changed)
	}
}

// flushAll sends what changed for as long as ctx lasts.
func (s *stream) flushAll(ctx context.Context) {
	tick := time.NewTicker(flushPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.flush(ctx)
		}
	}
}

func (s *stream) flush(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil || len(s.rows) == 0 {
		return
	}
	var whole, change []byte
	var err error
	for c := range s.clients {
		switch {
		case c.fresh && whole == nil:
			whole, err = event("document", s.rows)
		case !c.fresh && change == nil && len(s.changed) > 0:
			change, err = event("change", s.changed)
		}
		if err != nil {
			s.log.Warn("the page", "error", err)
			return
		}
		if c.fresh {
			c.send(whole)
			c.fresh = false
		} else if change != nil {
			c.send(change)
		}
	}
	s.changed = rows{}
}

// send never waits: who is late by too many events is cut off. It would miss
// changes.
func (c *client) send(event []byte) {
	select {
	case <-c.late:
	case c.events <- event:
	default:
		close(c.late)
	}
}

// serve streams the document to one client.
func (s *stream) serve(w http.ResponseWriter, r *http.Request) {
	c, ok := s.join(r.Context())
	if !ok {
		http.Error(w, "too many look at this page already: close one", http.StatusServiceUnavailable)
		return
	}
	defer s.leave(c)
	w.Header().Set("Content-Type", "text/event-stream")
	to := http.NewResponseController(w)
	write := func(b []byte) error {
		if err := to.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		return to.Flush()
	}
	silence := time.NewTicker(silencePause)
	defer silence.Stop()
	err := write([]byte(": what there is comes within a second\n\n"))
	for err == nil {
		select {
		case <-r.Context().Done():
			return
		case <-c.late:
			s.log.Info("somebody who looks at the page reads too slowly, and is cut off", "client", r.RemoteAddr)
			panic(http.ErrAbortHandler)
		case e := <-c.events:
			err = write(e)
		case <-silence.C:
			err = write([]byte(":\n\n"))
		}
	}
}
