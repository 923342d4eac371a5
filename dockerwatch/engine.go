package dockerwatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	dockerimage "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
)

// engine is what is asked of Docker's client.
type engine interface {
	Events(context.Context, events.ListOptions) (<-chan events.Message, <-chan error)
	ContainerList(context.Context, container.ListOptions) ([]container.Summary, error)
	ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error)
	ImageInspect(ctx context.Context, id string, _ ...client.ImageInspectOption) (dockerimage.InspectResponse, error)
	NetworkList(context.Context, network.ListOptions) ([]network.Summary, error)
	Close() error
}

var _ engine = (*client.Client)(nil)

// callTimeout is for one call. An engine holds back its answer about a
// container that it is busy with.
const callTimeout = 10 * time.Second

// dial makes a client, a new one each time: an engine may come back in another
// version, and a client asks for that once only.
func dial(host string) (*client.Client, error) {
	return client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation())
}

// stream is the events of an engine that wait to be taken. It reads them as
// they come, since an engine throws away what its listeners are slow to read.
type stream struct {
	wake chan struct{} // holds a token while there is something to take

	mu     sync.Mutex
	queued []event
	err    error // why the stream has ended
}

// maxQueued bounds the memory for events not taken: some megabytes.
const maxQueued = 1 << 16

// follow opens the stream of events that happened at since or later. Those of
// before now are there when it returns. The engine remembers its last 256,
// which is also what makes a list that is begun after follow has returned miss
// nothing: an engine answers before it begins to listen for new ones.
func follow(ctx context.Context, e engine, since time.Time) (*stream, error) {
	s := &stream{wake: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(ctx)
	// The stream itself has no end; what comes before it has.
	hung := time.AfterFunc(callTimeout, cancel)

	now := time.Now()
	past, end := e.Events(ctx, events.ListOptions{Since: timestamp(since), Until: timestamp(now), Filters: followed()})
	for past != nil {
		select {
		case m := <-past:
			s.add(m)
		case err := <-end:
			if !errors.Is(err, io.EOF) {
				cancel()
				return nil, fmt.Errorf("read past events: %w", err)
			}
			past = nil
		}
	}
	messages, errs := e.Events(ctx, events.ListOptions{Since: timestamp(now), Filters: followed()})
	if !hung.Stop() {
		cancel()
		return nil, fmt.Errorf("open the stream of events: no answer within %v", callTimeout)
	}
	go func() {
		defer cancel()
		for {
			select {
			case m := <-messages:
				if !s.add(m) {
					return
				}
			case err := <-errs:
				s.end(fmt.Errorf("stream of events: %w", err))
				return
			}
		}
	}()
	return s, nil
}

// timestamp writes a time as the engine reads it.
func timestamp(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }

// add queues a message, or ends the stream if too many wait.
func (s *stream) add(m events.Message) bool {
	e, ok := eventOf(m)
	if !ok {
		return true
	}
	s.mu.Lock()
	full := len(s.queued) == maxQueued
	if !full {
		s.queued = append(s.queued, e)
	}
	s.mu.Unlock()
	if full {
		s.end(fmt.Errorf("stream of events: more than %d wait", maxQueued))
		return false
	}
	s.signal()
	return true
}

func (s *stream) end(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	s.signal()
}

func (s *stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// drain returns all events that wait, and why no more will come, once that is
// so.
func (s *stream) drain() ([]event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.queued
	s.queued = nil
	return taken, s.err
}

// addrsOf are the addresses that a list has of a container.
func addrsOf(c container.Summary) (addrs []string) {
	if c.NetworkSettings == nil {
		return nil
	}
	for _, n := range c.NetworkSettings.Networks {
		if n != nil {
			addrs = append(addrs, n.IPAddress, n.GlobalIPv6Address)
		}
	}
	return addrs
}

// outline is what a list says of a container that can change while it runs.
// While it stays the same, there is no need to inspect the container.
func outline(c container.Summary) string {
	var b strings.Builder
	fmt.Fprint(&b, c.Names, c.State)
	// "Up 3 hours (healthy)", "Up 2 minutes (Paused)"
	if i := strings.IndexByte(c.Status, '('); i >= 0 {
		b.WriteString(c.Status[i:])
	}
	if c.NetworkSettings != nil {
		for _, name := range slices.Sorted(maps.Keys(c.NetworkSettings.Networks)) {
			if n := c.NetworkSettings.Networks[name]; n != nil {
				fmt.Fprint(&b, " ", name, n.NetworkID, n.IPAddress, n.GlobalIPv6Address)
			}
		}
	}
	return b.String()
}
