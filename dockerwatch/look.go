package dockerwatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"golang.org/x/sync/errgroup"

	"shoal/model"
)

// Seen is what the engine says of a container just now, whether it runs or not, as
// far as it matters for reaching it and for whom it reaches.
type Seen struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Node     string            `json:"node"`
	Stack    string            `json:"stack"`
	Services []model.ServiceID `json:"services,omitempty"` // that it is a task of while it runs
	Refusal  string            `json:"refusal,omitempty"`  // what is wrong with its labels
	Odd      []string          `json:"odd,omitempty"`      // labels that look like shoal's, and are not
	Compose  string            `json:"compose,omitempty"`  // its service of Compose

	State    string    `json:"state"` // the engine's word: "running", "exited", "restarting", "paused", "created", "dead"
	Pid      int       `json:"-"`     // of its first process, on this host; 0: none, or not known
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"` // when it last ended
	ExitCode int       `json:"exitCode"`          // of its last end; -1: not known
	OOM      bool      `json:"oom,omitempty"`     // the kernel ended it for want of memory
	Error    string    `json:"error,omitempty"`   // why the engine could not start it
	Restarts int       `json:"restarts,omitempty"`
	Ends     int       `json:"ends,omitempty"` // how often it ended in the last ten minutes, as far as the engine remembers
	Health   *Health   `json:"health,omitempty"`

	Networks    []string     `json:"networks,omitempty"`
	HostNetwork bool         `json:"hostNetwork,omitempty"`
	Addrs       []netip.Addr `json:"addrs,omitempty"`
	DNS         []string     `json:"dns,omitempty"` // of docker run --dns
	Published   []Published  `json:"published,omitempty"`
}

// Health is what a container's HEALTHCHECK says.
type Health struct {
	Status   string    `json:"status"`
	Failing  int       `json:"failing"` // how often in a row it failed
	At       time.Time `json:"at,omitzero"`
	ExitCode int       `json:"exitCode"`
	Output   string    `json:"output,omitempty"` // of the last check
}

// Published is a port of the host that docker run -p gave a container.
type Published struct {
	At       netip.AddrPort `json:"at"` // of the host; unspecified: any address
	Target   uint16         `json:"target"`
	Protocol model.Protocol `json:"protocol"`
}

const (
	maxLooked  = 64 // containers that are looked at for one question
	maxOutput  = 400
	endsWithin = 10 * time.Minute
)

// Look asks the engine which containers, running or not, a word may mean: those of
// that name or ID, and those that are tasks of the service stack/name, or of name in
// any stack, or would be if their labels were right.
func (w *Watcher) Look(ctx context.Context, what string) ([]Seen, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	engine, err := w.dial()
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	list, err := engine.ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	list = slices.DeleteFunc(list, func(c container.Summary) bool { return !mayMean(what, c) })
	slices.SortFunc(list, func(a, b container.Summary) int { return cmp.Compare(b.Created, a.Created) })
	list = list[:min(len(list), maxLooked)]
	found := make([]*Seen, len(list))
	var looks errgroup.Group
	looks.SetLimit(inspections)
	for i, c := range list {
		looks.Go(func() error {
			s, err := w.look(ctx, engine, c.ID)
			if err == nil && s.means(what) {
				found[i] = s
			}
			return nil // it is gone
		})
	}
	looks.Wait()
	var all []Seen
	for _, s := range found {
		if s != nil {
			all = append(all, *s)
		}
	}
	slices.SortFunc(all, func(a, b Seen) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return all, ctx.Err()
}

// mayMean tells whether a container is worth a look, by what a list says of it.
func mayMean(what string, c container.Summary) bool {
	name := what[strings.LastIndexByte(what, '/')+1:]
	if isRef(what, c.ID, c.Names...) || c.Labels[serviceOfCompose] == name {
		return true
	}
	for label, value := range c.Labels {
		if looksOurs(label) && (value == name || strings.Contains(label, "."+name+".")) {
			return true
		}
	}
	return false
}

// means tells whether it is what was asked for, now that its labels are read.
func (s *Seen) means(what string) bool {
	stack, name, found := strings.Cut(what, "/")
	if !found {
		stack, name = "", what
	}
	if isRef(what, s.ID, s.Name) {
		return true
	}
	if len(s.Services) > 0 {
		return slices.ContainsFunc(s.Services, func(id model.ServiceID) bool { return id.Name == name && (stack == "" || id.Stack == stack) })
	}
	return stack == "" || s.Stack == stack
}

// isRef tells whether a word is a container's name, its ID, or the beginning of that.
func isRef(what, id string, names ...string) bool {
	return len(what) >= 4 && strings.HasPrefix(id, what) ||
		slices.ContainsFunc(names, func(n string) bool { return strings.TrimPrefix(n, "/") == what })
}

const serviceOfCompose = "com.docker.compose.service"

// looksOurs tells whether a label is one of shoal's, or was meant to be.
func looksOurs(label string) bool {
	return isOurs(label) || strings.Contains(strings.ToLower(label), "shoal") || nearest(label, []string{"shoal.service", "shoal.ports", "shoal.publish"}) != ""
}

// look inspects a container.
func (w *Watcher) look(ctx context.Context, e engine, id string) (*Seen, error) {
	c, err := e.ContainerInspect(ctx, id)
	if err != nil {
		return nil, err
	}
	if c.ContainerJSONBase == nil || c.State == nil || c.Config == nil {
		return nil, errors.New("the engine says nothing of it")
	}
	image, err := (&session{Watcher: w, engine: e}).imageOf(ctx, c)
	if err != nil {
		return nil, err
	}
	s := seenOf(c, image, w.inventory.limits)
	s.Node = w.inventory.node
	if s.Pid != 0 {
		p, err := openProcess(s.Pid, s.ID)
		if err != nil {
			s.Pid = 0 // of another machine, or nobody's any more
		} else {
			p.Close()
		}
	}
	if s.State != "created" {
		w.lastEnds(ctx, e, s)
	}
	return s, nil
}

// seenOf distils what the engine says of a container.
func seenOf(c container.InspectResponse, image map[string]string, l limits) *Seen {
	labels, _ := effectiveLabels(c.Config.Labels, image)
	s := &Seen{
		ID: c.ID, Name: strings.TrimPrefix(c.Name, "/"), Compose: c.Config.Labels[serviceOfCompose],
		State: c.State.Status, Pid: c.State.Pid, ExitCode: c.State.ExitCode, OOM: c.State.OOMKilled, Error: short(c.State.Error),
		Restarts: c.RestartCount, Started: engineTime(c.State.StartedAt), Finished: engineTime(c.State.FinishedAt),
	}
	s.Stack, _ = stackOf(labels)
	services, err := parseLabels(labels, l)
	if err != nil {
		s.Refusal = err.Error()
	}
	for _, one := range services {
		s.Services = append(s.Services, one.id)
	}
	for label := range labels {
		if looksOurs(label) && !isOurs(label) {
			s.Odd = append(s.Odd, label)
		}
	}
	slices.Sort(s.Odd)
	if c.State.Running {
		s.ExitCode = -1
	}
	if h := c.State.Health; h != nil && h.Status != container.NoHealthcheck {
		s.Health = &Health{Status: string(h.Status), Failing: h.FailingStreak}
		if n := len(h.Log); n > 0 && h.Log[n-1] != nil {
			last := h.Log[n-1]
			s.Health.At, s.Health.ExitCode, s.Health.Output = last.End, last.ExitCode, short(last.Output)
		}
	}
	if c.HostConfig != nil {
		s.HostNetwork = c.HostConfig.NetworkMode.IsHost()
		s.DNS = c.HostConfig.DNS
	}
	if c.NetworkSettings == nil {
		return s
	}
	for name, n := range c.NetworkSettings.Networks {
		s.Networks = append(s.Networks, name)
		if n == nil {
			continue
		}
		if a, err := netip.ParseAddr(n.IPAddress); err == nil {
			s.Addrs = append(s.Addrs, a)
		}
	}
	slices.Sort(s.Networks)
	slices.SortFunc(s.Addrs, netip.Addr.Compare)
	for port, bound := range c.NetworkSettings.Ports {
		proto, err := model.ParseProtocol(port.Proto())
		if err != nil {
			continue
		}
		for _, b := range bound {
			number, err := strconv.ParseUint(b.HostPort, 10, 16)
			ip, err2 := netip.ParseAddr(cmp.Or(b.HostIP, "0.0.0.0"))
			if err == nil && err2 == nil && number > 0 {
				s.Published = append(s.Published, Published{netip.AddrPortFrom(ip, uint16(number)), uint16(port.Int()), proto})
			}
		}
	}
	slices.SortFunc(s.Published, func(a, b Published) int { return a.At.Compare(b.At) })
	return s
}

// lastEnds adds how often the container ended lately, and with what code, which the
// engine remembers for a while: it tells no code of one that runs again.
func (w *Watcher) lastEnds(ctx context.Context, e engine, s *Seen) {
	now := time.Now()
	events, end := e.Events(ctx, events.ListOptions{
		Since: timestamp(now.Add(-endsWithin)), Until: timestamp(now),
		Filters: filters.NewArgs(filters.Arg("container", s.ID), filters.Arg("event", "die")),
	})
	last := -1
	for {
		select {
		case m := <-events:
			s.Ends++
			if code, err := strconv.Atoi(m.Actor.Attributes["exitCode"]); err == nil {
				last = code
			}
		case <-end: // of what is remembered, or the engine has gone
			if s.ExitCode < 0 {
				s.ExitCode = last
			}
			return
		}
	}
}

// engineTime reads a time of the engine's; zero: never.
func engineTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 1971 {
		return time.Time{}
	}
	return t.UTC()
}

// short is the end of a text that may be long, where errors say what they are.
func short(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxOutput {
		s = "…" + strings.ToValidUTF8(s[len(s)-maxOutput:], "")
	}
	return s
}
