package diagnose

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/semaphore"

	"shoal/dockerwatch"
	"shoal/kernel/sockets"
	"shoal/model"
)

// Sight is what a host sees of what a word may mean: what its engine says of the
// containers, who listens in their networks, and the problems that it knows of.
type Sight struct {
	Containers []Looked        `json:"containers,omitempty"`
	Problems   []model.Problem `json:"problems,omitempty"`
}

// Looked is a container, and who listens in its network.
type Looked struct {
	dockerwatch.Seen
	Listens []Listener `json:"listens,omitempty"`
	Deaf    string     `json:"deaf,omitempty"` // why it is not known who listens; "": it is
}

// maxSights are asked for at a time.
const maxSights = 32

// See is what this host sees of a word: stack/name of a service, or a container.
func (in *Inspector) See(ctx context.Context, what string) (Sight, error) {
	if len(what) > maxTraced {
		return Sight{}, fmt.Errorf("a name of %d characters", len(what))
	}
	s, err := in.Snapshot()
	if err != nil {
		return Sight{}, err
	}
	seen, err := in.Look(ctx, what)
	if err != nil {
		return Sight{}, fmt.Errorf("ask the engine of host %s: %w", s.Self.Name, err)
	}
	var sight Sight
	names := map[string]bool{what: true}
	for _, c := range seen {
		sight.Containers = append(sight.Containers, listen(c))
		names[c.Name] = true
		for _, id := range c.Services {
			names[id.String()] = true
		}
	}
	sight.Problems = in.dropsToTasks(s, what)
	for _, p := range in.Problems() {
		if p.Node == s.Self.Name && (names[p.Object] || !p.Notice && concerning[p.Code]) {
			sight.Problems = append(sight.Problems, p)
		}
	}
	return sight, nil
}

// concerning are the problems of a host that every service on it may suffer from.
var concerning = map[model.Code]bool{
	model.FirewallDrops: true, model.EngineDrops: true, model.ConntrackFull: true, model.HostUnreachable: true,
	model.RouteMissing: true, model.RouteForeign: true, model.DNSListenFailed: true, model.KernelIncomplete: true,
	model.NetworkFailed: true, model.SubnetOverlap: true, model.AddressTaken: true,
}

// listen finds who listens in the network of a container of this host.
func listen(c dockerwatch.Seen) Looked {
	l := Looked{Seen: c}
	switch {
	case c.State != "running" && c.State != "paused":
		return l
	case c.Pid == 0:
		l.Deaf = "its process is not to be seen from here"
		return l
	}
	all, err := sockets.ListenersOf(c.Pid, map[model.Protocol]bool{model.TCP: true, model.UDP: true, model.SCTP: true})
	if err != nil {
		l.Deaf = err.Error()
		return l
	}
	inodes := map[uint32]bool{}
	for _, one := range all {
		inodes[one.Inode] = true
	}
	var names map[uint32]string
	if len(inodes) > 0 {
		names = sockets.Processes(inodes)
	}
	for _, one := range all {
		l.Listens = append(l.Listens, Listener{Protocol: one.Protocol, Addr: one.Addr, V6Only: one.V6Only, Process: names[one.Inode]})
	}
	slices.SortFunc(l.Listens, func(a, b Listener) int { return a.Addr.Compare(b.Addr) })
	return l
}

// sights are those of all hosts that live, by their names.
type sights struct {
	of     map[string]Sight
	silent map[string]error // hosts that did not tell
}

// look asks every host that lives what it sees of a word.
func (in *Inspector) look(ctx context.Context, s *model.Snapshot, what string) sights {
	all := sights{of: map[string]Sight{}, silent: map[string]error{}}
	var mu sync.Mutex
	var asked sync.WaitGroup
	sem := semaphore.NewWeighted(maxSights)
	for _, n := range s.Nodes {
		if n.Name != s.Self.Name && !n.Alive {
			continue
		}
		asked.Go(func() {
			_ = sem.Acquire(context.Background(), 1)
			defer sem.Release(1)
			ctx, cancel := context.WithTimeout(ctx, traceTimeout)
			defer cancel()
			var sight Sight
			var err error
			if n.Name == s.Self.Name {
				sight, err = in.See(ctx, what)
			} else {
				sight, err = in.PeerSight(ctx, n.Addr, what)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				all.silent[n.Name] = err
				return
			}
			for i := range sight.Containers { // whose they are is not for the other to say
				sight.Containers[i].Node = n.Name
			}
			all.of[n.Name] = sight
		})
	}
	asked.Wait()
	return all
}

// containers are all that were seen, by host, then name.
func (a sights) containers() (all []*Looked) {
	for _, node := range slices.Sorted(maps.Keys(a.of)) {
		sight := a.of[node]
		for i := range sight.Containers {
			all = append(all, &sight.Containers[i])
		}
	}
	return all
}

// find is a container of a host; nil: it was not seen.
func (a sights) find(node, id string) *Looked {
	for _, c := range a.of[node].Containers {
		if c.ID == id {
			return &c
		}
	}
	return nil
}

// problems are those that the hosts know of, each once.
func (a sights) problems() (all []model.Problem) {
	seen := map[string]bool{}
	for _, node := range slices.Sorted(maps.Keys(a.of)) {
		for _, p := range a.of[node].Problems {
			key := node + "\x00" + p.Reason
			if p.Node == node && !seen[key] {
				seen[key] = true
				all = append(all, p)
			}
		}
	}
	return all
}

// oneLine puts a text of somebody else's on one line.
func oneLine(s string) string { return strings.Join(strings.Fields(printable(s)), " ") }
