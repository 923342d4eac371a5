package faults

import (
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Kind is what breaks.
type Kind string

// What may fail because of each is in excuse.go.
const (
	TaskKilled    Kind = "task killed"     // its process, by SIGKILL; it is started again
	TaskFrozen    Kind = "task frozen"     // docker pause
	HostCut       Kind = "host cut off"    // its link
	HostsApart    Kind = "hosts cut apart" // two do not reach each other, all others reach both
	LinkDelayed   Kind = "link delayed"    // by Delay, each way
	AgentKilled   Kind = "agent killed"    // by SIGKILL; on the host that serves the store, the store's process ends with it
	AgentFrozen   Kind = "agent frozen"    // by SIGSTOP
	EngineFrozen  Kind = "engine frozen"   // by SIGSTOP
	StoreKilled   Kind = "store killed"    // the process of etcd, by SIGKILL
	StoreFrozen   Kind = "store frozen"    // the process of etcd, by SIGSTOP
	DiskFull      Kind = "disk full"       // that of the state folder
	ClockSkewed   Kind = "clock skewed"    // the agent's, and its store's; it jumps, and jumps back
	StoreRestored Kind = "store restored"  // from a backup, all else in the state folder being lost
)

// Delay is by how much a delayed link is late, each way.
const Delay = 100 * time.Millisecond

// kinds are all there are, with how long each lasts at the least and at the most.
var kinds = []struct {
	kind        Kind
	least, most time.Duration
}{
	{TaskKilled, 2 * time.Second, 5 * time.Second},
	{TaskFrozen, 2 * time.Second, 8 * time.Second},
	{HostCut, 200 * time.Millisecond, 10 * time.Second},
	{HostsApart, time.Second, 10 * time.Second},
	{LinkDelayed, 4 * time.Second, 10 * time.Second},
	{AgentKilled, 0, 6 * time.Second},
	{AgentFrozen, time.Second, 12 * time.Second},
	{EngineFrozen, 2 * time.Second, 8 * time.Second},
	{StoreKilled, time.Second, 4 * time.Second},
	{StoreFrozen, time.Second, 12 * time.Second},
	{DiskFull, 3 * time.Second, 10 * time.Second},
	{ClockSkewed, 2 * time.Second, 10 * time.Second},
	{StoreRestored, 0, 3 * time.Second},
}

// withRestart are the kinds that an agent may be restarted in.
var withRestart = []Kind{HostCut, HostsApart, LinkDelayed, EngineFrozen, StoreFrozen, ClockSkewed, DiskFull}

// Step is one fault.
type Step struct {
	Kind    Kind
	Host    string
	Other   string        // of HostsApart, the other host
	Service string        // of a task
	Skew    time.Duration // of a clock, forward or back, in whole seconds
	Lasts   time.Duration // from when it is there until it is undone
	// Starts is the service that gets one more task meanwhile, on the host StartsOn; "": nothing starts.
	Starts, StartsOn string
	Restarts         bool // the agent of Host is killed meanwhile, and starts while things are broken
}

// Cluster is what is there to be broken.
type Cluster struct {
	Hosts, Services []string
	Servers         []string // hosts that serve the store
}

// String is the step as the time line has it.
func (s Step) String() string {
	what := fmt.Sprintf("%s on %s", s.Kind, s.Host)
	switch s.Kind {
	case TaskKilled, TaskFrozen:
		what = fmt.Sprintf("%s: %s on %s", s.Kind, s.Service, s.Host)
	case HostCut:
		what = fmt.Sprintf("%s: %s", s.Kind, s.Host)
	case HostsApart:
		what = fmt.Sprintf("%s: %s and %s", s.Kind, s.Host, s.Other)
	case ClockSkewed:
		what = fmt.Sprintf("%s by %v on %s", s.Kind, s.Skew, s.Host)
	case LinkDelayed:
		what = fmt.Sprintf("%s by %v: %s", s.Kind, Delay, s.Host)
	}
	if s.Restarts {
		what += ", its agent being restarted"
	}
	if s.Starts != "" {
		what += fmt.Sprintf(", while one more %s starts on %s", s.Starts, s.StartsOn)
	}
	return fmt.Sprintf("%s, for %v", what, s.Lasts)
}

// Plan is the faults of a seed, without end. All kinds come once in an order by chance, then
// once more in another one, and so on, so that a long run has each about as often. Services take turns, so that no task breaks
// so often that it has to prove itself for longer each time (task-flapping). A store is restored only where one host serves it: with
// more, the others have it still.
func Plan(seed uint64, c Cluster) iter.Seq[Step] {
	return func(yield func(Step) bool) {
		r := rand.New(rand.NewPCG(seed, 0))
		hosts, services := c.Hosts, c.Services
		task := r.IntN(len(hosts) * len(services)) // the last that was broken
		for {
			for _, i := range r.Perm(len(kinds)) {
				k := kinds[i]
				s := Step{Kind: k.kind, Lasts: k.least + time.Duration(r.Int64N(int64(k.most-k.least))).Round(100*time.Millisecond)}
				at := r.Perm(len(hosts))
				s.Host = hosts[at[0]]
				switch k.kind {
				case HostsApart:
					s.Other = hosts[at[1]]
				case ClockSkewed: // from seconds to a day, small ones and large ones as often
					s.Skew = time.Duration(math.Exp(r.Float64()*math.Log(86400))) * time.Second
					if r.IntN(2) == 0 {
						s.Skew = -s.Skew
					}
				case StoreRestored:
					if len(c.Servers) > 1 {
						continue
					}
					s.Host = c.Servers[0]
				case StoreKilled, StoreFrozen:
					s.Host = c.Servers[r.IntN(len(c.Servers))]
				case TaskKilled, TaskFrozen:
					task++
					s.Host, s.Service = hosts[task/len(services)%len(hosts)], services[task%len(services)]
				}
				s.Restarts = slices.Contains(withRestart, k.kind) && r.IntN(2) == 0
				if r.IntN(2) == 0 {
					s.Starts, s.StartsOn = services[r.IntN(len(services))], hosts[at[2%len(at)]]
					if k.kind != EngineFrozen { // a frozen engine starts nothing
						s.StartsOn = hosts[r.IntN(len(hosts))]
					}
				}
				if !yield(s) {
					return
				}
			}
		}
	}
}
