package dockerwatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/docker/docker/client"
	"github.com/prometheus/client_golang/prometheus"

	"shoal/internal/health"
	"shoal/model"
)

const (
	// lookBack is how far into the past the first stream of events reaches:
	// for the containers that were told to stop while nobody watched, as long
	// as the longest drain.
	lookBack = maxDrain

	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second

	// stuckAfter is how long Run may make no progress. Each of its calls of the engine
	// ends after callTimeout.
	stuckAfter = 2 * time.Minute
)

// Options are what a [Watcher] is made with.
type Options struct {
	Host     string            // the engine's socket; "" is client.DefaultDockerHost, unix:///var/run/docker.sock
	Node     string            // this host's name, as in the tasks
	NodeAddr func() netip.Addr // this host's address, of tasks on its network; the zero Addr if not known yet
	Pool     netip.Prefix      // fixed VIPs are in it
	Reserved []netip.Addr      // addresses of the pool that are no service's: the DNS server's
	Log      *slog.Logger      // nil: slog.Default()
	Resync   time.Duration     // between lists made to be sure; 0: 60 s

	// Reached tells whether other hosts reach an address of a container here, so that
	// it rests when its task has left. It is called by Run's goroutine. Nil: none.
	Reached func(netip.Addr) bool

	// Ready is how long a task may take to accept connections on its ports before it
	// enters rotation without, see package documentation. 0: tasks enter at once.
	Ready time.Duration

	// Recorded is a container here as it was when the agent last ran, by its ID; false: it is
	// not known. Its tasks that were in rotation stay there, also while the engine runs it and
	// does not answer when it is asked for it. It is called by Run's goroutine. Nil: none is
	// known.
	Recorded func(id string) (model.Container, bool)

	Registerer prometheus.Registerer // of metrics; nil: none
	Health     *health.State         // has Run watched; nil: nobody does
}

// Watcher follows one Docker engine.
type Watcher struct {
	host    string
	log     *slog.Logger
	resync  time.Duration
	metrics metrics
	health  *health.State
	dial    func() (engine, error)

	crashes crashes
	images  sync.Map // image's ID -> its labels, of those that were asked for

	commands chan command  // for Run
	ended    chan struct{} // closed when Run has returned

	// Of Run's goroutine alone.
	inventory *inventory
	rests     *rests
	awake     *time.Timer // when something of rests changes
	exits     exits
	probes    probes
	outlines  map[string]string // container's ID -> as it was listed when last inspected
	last      *model.Local      // as last emitted; nil before the first
	logged    map[string]string // container's ID -> the problem last logged
	heart     *health.Heart
	seen      time.Time // when the last event taken happened
}

// CheckHost reports why an address can be that of no engine.
func CheckHost(host string) error {
	if _, err := client.ParseHostURL(host); err != nil {
		return fmt.Errorf("address of the Docker engine: %w; write it as unix:///var/run/docker.sock", err)
	}
	return nil
}

// New makes a Watcher. It returns an error if the options make no sense; the
// engine need not be there yet.
func New(o Options) (*Watcher, error) {
	if o.Host == "" {
		o.Host = client.DefaultDockerHost
	}
	if err := CheckHost(o.Host); err != nil {
		return nil, err
	}
	switch {
	case o.Node == "":
		return nil, errors.New("watch the Docker engine: the host has no name")
	case !o.Pool.IsValid():
		return nil, errors.New("watch the Docker engine: no pool of VIPs is given")
	case o.Resync < 0:
		return nil, fmt.Errorf("watch the Docker engine: resync of %v is negative", o.Resync)
	case o.Ready < 0:
		return nil, fmt.Errorf("watch the Docker engine: the limit of %v for tasks to be ready is negative", o.Ready)
	}
	if o.Resync == 0 {
		o.Resync = time.Minute
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Recorded == nil {
		o.Recorded = func(string) (c model.Container, known bool) { return c, false }
	}
	if o.NodeAddr == nil {
		o.NodeAddr = func() netip.Addr { return netip.Addr{} }
	}
	return &Watcher{
		host:    o.Host,
		log:     o.Log,
		resync:  o.Resync,
		metrics: newMetrics(o.Registerer),
		health:  o.Health,
		dial:    func() (engine, error) { return dial(o.Host) },

		inventory: &inventory{
			node:       o.Node,
			nodeAddr:   o.NodeAddr,
			limits:     limits{pool: o.Pool.Masked(), reserved: slices.Clone(o.Reserved)},
			containers: map[string]*facts{},
			networks:   map[string]engineNetwork{},
			leaving:    map[string]leave{},
			early:      map[string][]event{},
			dead:       map[string]time.Time{},
			stale:      map[string]bool{},
			dampers:    map[string]*damper{},
			readiness:  newReadiness(o.Ready, o.Recorded),
			recorded:   o.Recorded,
			unseen:     map[string][]string{},
		},
		rests:    newRests(o.Reached),
		awake:    stoppedTimer(),
		commands: make(chan command),
		ended:    make(chan struct{}),
		exits:    exits{ended: make(chan life), watching: map[string]watching{}},
		probes:   newProbes(),
		outlines: map[string]string{},
		logged:   map[string]string{},
	}, nil
}

// stoppedTimer is a timer that was set to no time yet.
func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// Run follows the engine until ctx is done, and returns its error. It calls
// emit with the whole of what the engine has, once that is known, and again
// when it has changed. While the engine is away nothing is emitted but deaths of
// containers, of which the kernel tells, and what Drain and Undrain do: what it
// last had stays true until it says otherwise. The rests of addresses end meanwhile.
// Run calls status with nil when
// the engine is being followed, and with the reason each time it is not, or
// cannot be reached. Both are called by one goroutine, and hold it up. What
// emit is given is not to be written to.
//
// Run is called once. The other methods may be called meanwhile, by any
// goroutine but the one that emit and status are called by.
func (w *Watcher) Run(ctx context.Context, emit func(model.Local), status func(error)) error {
	defer close(w.ended)
	defer w.exits.stop()
	defer w.probes.stop()
	w.heart = w.health.Watch("engine", stuckAfter)
	defer w.heart.Stop()
	backoff := minBackoff
	for away := false; ; {
		connected := false
		err := w.session(ctx, emit, func() {
			connected, away, backoff = true, false, minBackoff
			w.metrics.connected.Set(1)
			w.log.Info("following the Docker engine", "host", w.host)
			status(nil)
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		err = fmt.Errorf("follow the Docker engine at %s: %w", w.host, err)
		w.metrics.connected.Set(0)
		if !away {
			away = true
			w.log.Warn("the Docker engine is away; going on with what it last had", "error", err)
		}
		status(err)
		// Half of the time is left to chance, so that hosts that share a
		// cause do not share their retries.
		wait := backoff/2 + rand.N(backoff/2)
		if !connected {
			backoff = min(2*backoff, maxBackoff)
		}
		for waited := time.After(wait); waited != nil; {
			w.heart.Beat()
			select {
			case <-ctx.Done():
				return ctx.Err()
			case c := <-w.commands:
				w.runCommand(c, emit)
			case l := <-w.exits.ended:
				w.onExit(l)
				w.tell(emit)
			case p := <-w.probes.news:
				if w.onProbed(p) {
					w.tell(emit)
				}
			case <-w.awake.C:
				w.tell(emit)
			case <-waited:
				waited = nil
			}
		}
	}
}

// onExit takes in that a container has ended, before the engine says so.
func (w *Watcher) onExit(l life) {
	if f := w.inventory.end(l); f != nil {
		w.metrics.exits.Inc()
		w.log.Debug("a container's first process has ended", "container", f.name, "id", f.id)
	}
}

// onProbed takes in news of a probe, and tells whether anything differs.
func (w *Watcher) onProbed(p probed) bool {
	if !w.probes.current(&p) {
		return false
	}
	now := time.Now().UTC()
	differs := w.inventory.readiness.take(&p, now)
	if f := w.inventory.containers[p.container]; differs && f != nil {
		w.inventory.damped(f, now)
		w.log.Debug("a task's ports were tried", "container", f.name, "service", p.service, "ready", p.outcome == accepted, "finding", p.fault)
	}
	return differs
}

// tell emits what there is now, if it differs from what was last emitted.
func (w *Watcher) tell(emit func(model.Local)) {
	if err := w.exits.follow(w.inventory.containers); err != nil {
		w.log.Info("deaths of containers are known when the engine tells of them, not sooner", "why", err)
	}
	w.probes.follow(w.inventory.probes())
	local := w.inventory.local()
	if next := w.rests.apply(&local, time.Now()); next > 0 {
		w.awake.Reset(next)
	}
	if w.last != nil && reflect.DeepEqual(*w.last, local) {
		return
	}
	w.last = &local
	w.logProblems()
	emit(local)
}

// logProblems logs each problem when it is new, and counts them.
func (w *Watcher) logProblems() {
	logged := map[string]string{}
	for _, c := range w.last.Containers {
		if c.Problem == "" {
			continue
		}
		logged[c.ID] = c.Problem
		if w.logged[c.ID] != c.Problem {
			w.log.Warn("a container is left out of the mesh", "container", c.Name, "id", c.ID, "problem", c.Problem)
		}
	}
	w.logged = logged
	w.metrics.problems.Set(float64(len(logged)))
}
