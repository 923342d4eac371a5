package dockerwatch

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"
	"golang.org/x/sys/unix"

	"shoal/model"
)

// facts is what is kept of an inspected container.
type facts struct {
	id, name string
	started  time.Time
	pid      int // of its first process, as the engine numbers it; 0: not known
	stack    string
	project  string // of Compose, as it is written there; "" if none
	services []serviceLabels
	refusal  error // why the labels were refused; nil if they were not
	exposed  []model.Port
	ignored  []string // shoal labels that are not obeyed: they are its image's

	paused    bool
	health    container.HealthStatus // "" without a HEALTHCHECK
	pausedAt  time.Time              // when paused last changed
	healthyAt time.Time              // when health last changed

	stopSignal  syscall.Signal
	stopTimeout time.Duration // negative: for ever

	hostNetwork bool
	joined      string     // the container whose network it shares, ID or name; "" if none
	endpoints   []endpoint // by network; those with an address
}

// endpoint is a container's place on a network.
type endpoint struct {
	network, networkID string
	addrs              []netip.Addr // IPv4 before IPv6
}

// defaultStopTimeout and SIGTERM are the engine's own defaults.
const defaultStopTimeout = 10 * time.Second

// factsOf distils what the engine says of a container, and of its image's
// labels if they matter, at the moment now. It is nil for a container that does
// not run.
func factsOf(c container.InspectResponse, image map[string]string, l limits, now time.Time) *facts {
	if c.ContainerJSONBase == nil || c.State == nil || c.Config == nil {
		return nil
	}
	// While an engine restarts a container it says "running" as well.
	if !c.State.Running || c.State.Restarting || c.State.Dead {
		return nil
	}
	f := &facts{
		id:          c.ID,
		name:        strings.TrimPrefix(c.Name, "/"),
		pid:         c.State.Pid,
		paused:      c.State.Paused,
		stopSignal:  parseSignal(c.Config.StopSignal),
		stopTimeout: defaultStopTimeout,
	}
	var err error
	if f.started, err = time.Parse(time.RFC3339Nano, c.State.StartedAt); err != nil {
		f.started = now
	}
	f.started = f.started.UTC()
	f.pausedAt, f.healthyAt = f.started, f.started
	if h := c.State.Health; h != nil && h.Status != container.NoHealthcheck {
		f.health = h.Status
	}
	if t := c.Config.StopTimeout; t != nil {
		f.stopTimeout = time.Duration(*t) * time.Second
	}
	f.exposed = exposedBy(c.Config)
	labels, ignored := effectiveLabels(c.Config.Labels, image)
	f.ignored, f.project = ignored, labels[projectLabel]
	f.stack, _ = stackOf(labels)
	if f.services, err = parseLabels(labels, l); err != nil {
		f.services, f.refusal = nil, err
	}
	if c.HostConfig != nil {
		f.hostNetwork = c.HostConfig.NetworkMode.IsHost()
		f.joined = c.HostConfig.NetworkMode.ConnectedContainer()
	}
	if c.NetworkSettings == nil {
		return f
	}
	for _, name := range slices.Sorted(maps.Keys(c.NetworkSettings.Networks)) {
		n := c.NetworkSettings.Networks[name]
		if n == nil {
			continue
		}
		e := endpoint{network: name, networkID: n.NetworkID}
		for _, s := range []string{n.IPAddress, n.GlobalIPv6Address} {
			if a, err := netip.ParseAddr(s); err == nil {
				e.addrs = append(e.addrs, a.Unmap())
			}
		}
		if len(e.addrs) > 0 {
			f.endpoints = append(f.endpoints, e)
		}
	}
	return f
}

// follows takes from what was known of the container before the times of what
// has not changed, and gives the moment now to what has.
func (f *facts) follows(before *facts, now time.Time) {
	if before == nil || !before.started.Equal(f.started) {
		return
	}
	f.pausedAt, f.healthyAt = before.pausedAt, before.healthyAt
	if f.paused != before.paused {
		f.pausedAt = now
	}
	if f.health != before.health {
		f.healthyAt = now
	}
}

// state tells where a task of the container stands, and since when. A zero
// leaving means that it is not to stop.
func (f *facts) state(usesHealth bool, leaving time.Time) (model.State, time.Time) {
	switch {
	case !leaving.IsZero():
		return model.Draining, leaving
	case f.paused:
		return model.Paused, f.pausedAt
	case !usesHealth || f.health == "":
		return model.Running, f.pausedAt
	}
	since := f.healthyAt
	if f.pausedAt.After(since) {
		since = f.pausedAt
	}
	switch f.health {
	case container.Healthy:
		return model.Running, since
	case container.Unhealthy:
		return model.Unhealthy, since
	}
	return model.Starting, since
}

// back tells whether a container that was to stop and still runs is taken to
// have ignored its signal, or to be stopped no more if it was sent none. An
// engine kills a container when its stop timeout is over, but "docker stop -t"
// can lengthen that unseen: hence the margin.
func (f *facts) back(l leave, now time.Time) bool {
	const margin = time.Minute
	if f.stopTimeout < 0 {
		return false
	}
	var drain time.Duration
	for _, s := range f.services {
		drain = max(drain, s.drain)
	}
	last := l.since
	if l.signaled.After(last) {
		last = l.signaled
	}
	return !now.Before(last.Add(f.stopTimeout + drain + margin))
}

// stops tells whether a container that is sent the signal is meant to end.
func (f *facts) stops(s syscall.Signal) bool {
	return stopSignals[s] || s == f.stopSignal
}

// parseSignal reads a signal as the engine writes it: a number, or a name with
// or without SIG, SIGRTMIN+3 and SIGRTMAX-1 among them. Whatever else is
// SIGTERM, the engine's default.
func parseSignal(s string) syscall.Signal {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= 64 {
		return syscall.Signal(n)
	}
	s = "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n := unix.SignalNum(s); n != 0 {
		return n
	}
	// signal(7): as the C library numbers the real-time signals.
	for name, base := range map[string]int{"SIGRTMIN": 34, "SIGRTMAX": 64} {
		if rest, ok := strings.CutPrefix(s, name); ok {
			offset, err := strconv.Atoi(rest)
			if n := base + offset; (rest == "" || err == nil) && n >= 34 && n <= 64 {
				return syscall.Signal(n)
			}
		}
	}
	return unix.SIGTERM
}
