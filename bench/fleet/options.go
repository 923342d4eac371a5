package fleet

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Options say what is simulated.
type Options struct {
	Hosts   int           // of the fleet
	Tasks   int           // of each host
	Servers int           // of the store: 1 or 3
	Workers int           // processes for the hosts of a part; 0: one for 250 hosts, 2 at least
	Seconds int           // of the phases rest and churn
	Churn   float64       // task changes a second, of the whole fleet
	Cut     int           // hosts beyond the partition; 0: three of ten
	Deaths  int           // hosts that die, one after the other
	Askers  int           // hosts whose liveness asks all others; 0: all
	Limit   time.Duration // of a cold start, after which the run goes on without it; 0: three minutes
	Phases  string        // "cold,churn"; "": all
	Part    string        // "catalog" or "liveness"; "": both
	Dir     string        // of a temporary folder for the hosts' files; "": the system's
	Verbose bool          // workers' warnings are shown
}

// The phases, in their order.
const (
	phaseCold      = "cold"      // all hosts start at once
	phaseRest      = "rest"      // nothing happens
	phaseChurn     = "churn"     // tasks come and go
	phaseServer    = "server"    // a server of the store is killed, and comes back
	phasePartition = "partition" // some hosts are cut off from the others, and come back
	phaseDeath     = "death"     // hosts die one after the other
)

// The parts that are measured apart.
const (
	partCatalog  = "catalog"
	partLiveness = "liveness"
)

// phasesOf says which phases a part has.
var phasesOf = map[string][]string{
	partCatalog:  {phaseCold, phaseRest, phaseChurn, phaseServer, phasePartition},
	partLiveness: {phaseCold, phaseRest, phasePartition, phaseDeath},
}

// plan is what is done, of checked [Options].
type plan struct {
	parts  []string
	phases []string // cold first: without it there is nothing
}

func (p *plan) has(part string) bool { return slices.Contains(p.parts, part) }

// with tells whether a part is measured in a phase.
func (p *plan) with(part, phase string) bool {
	return p.has(part) && slices.Contains(phasesOf[part], phase)
}

const (
	maxHosts = 10_000
	maxTasks = 100 // of one host: they have addresses of its subnet
)

// check fills in what was left open, and makes the plan.
func (o *Options) check() (p plan, err error) {
	switch {
	case o.Hosts < 2 || o.Hosts > maxHosts:
		return p, fmt.Errorf("-hosts %d: it takes 2 to %d", o.Hosts, maxHosts)
	case o.Tasks < 1 || o.Tasks > maxTasks:
		return p, fmt.Errorf("-tasks %d: it takes 1 to %d on each host", o.Tasks, maxTasks)
	case o.Servers != 1 && o.Servers != 3:
		return p, fmt.Errorf("-servers %d: it takes 1 or 3", o.Servers)
	case o.Seconds < 1 || o.Churn <= 0 || o.Deaths < 0 || o.Workers < 0:
		return p, fmt.Errorf("-seconds %d, -churn %g, -deaths %d, -workers %d: they cannot be negative, nor the first two 0",
			o.Seconds, o.Churn, o.Deaths, o.Workers)
	case o.Cut < 0 || o.Cut >= o.Hosts || o.Askers < 0 || o.Deaths >= o.Hosts:
		return p, fmt.Errorf("-cut %d, -askers %d, -deaths %d: there are only %d hosts", o.Cut, o.Askers, o.Deaths, o.Hosts)
	}
	if o.Limit < 0 {
		return p, fmt.Errorf("-limit %v: it cannot be negative", o.Limit)
	}
	if o.Limit == 0 {
		o.Limit = coldLimit
	}
	if o.Workers == 0 {
		o.Workers = max(2, (o.Hosts+249)/250)
	}
	o.Workers = min(o.Workers, o.Hosts)
	if o.Cut == 0 {
		o.Cut = max(1, o.Hosts*3/10)
	}
	if o.Askers == 0 || o.Askers > o.Hosts {
		o.Askers = o.Hosts
	}
	switch o.Part {
	case "":
		p.parts = []string{partCatalog, partLiveness}
	case partCatalog, partLiveness:
		p.parts = []string{o.Part}
	default:
		return p, fmt.Errorf("-part %s: it is %s or %s", o.Part, partCatalog, partLiveness)
	}
	all := []string{phaseCold, phaseRest, phaseChurn, phaseServer, phasePartition, phaseDeath}
	asked := all
	if o.Phases != "" {
		asked = strings.Split(o.Phases, ",")
		for _, name := range asked {
			if !slices.Contains(all, name) {
				return p, fmt.Errorf("-phase %s: there is no such phase; there are %s", name, strings.Join(all, ", "))
			}
		}
	}
	for _, name := range all {
		if name == phaseCold || slices.Contains(asked, name) && (p.with(partCatalog, name) || p.with(partLiveness, name)) {
			p.phases = append(p.phases, name)
		}
	}
	return p, nil
}

// share is the hosts of one worker of several.
func share(hosts, workers, worker int) (all []int) {
	for h := worker; h < hosts; h += workers {
		all = append(all, h)
	}
	return all
}

// spread picks n of so many hosts, evenly.
func spread(hosts, n int) map[int]bool {
	n = min(n, hosts)
	picked := map[int]bool{}
	for i := range n {
		picked[i*hosts/n] = true
	}
	return picked
}

// Names and addresses, all of which follow from a host's number.

func nodeName(host int) string { return fmt.Sprintf("h%05d", host) }

func serverName(server int) string { return fmt.Sprintf("server-%d", server) }

// inBlock is an address of 127.block.0.0/16.
func inBlock(block, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(block), byte(host / 250), byte(1 + host%250)})
}

const (
	hostBlock   = 10
	serverBlock = 1
	aliasBlock  = 20 // and the next ones, one for each server
)

func hostAddr(host int) netip.Addr     { return inBlock(hostBlock, host) }
func serverAddr(server int) netip.Addr { return inBlock(serverBlock, server) }

// storeAlias is where a host reaches a server of the store.
func storeAlias(server, host int) netip.Addr { return inBlock(aliasBlock+server, host) }

// observers is how many hosts watch for changes.
const observers = 50

// Limits of the phases, beyond which a run goes on without what it waits for.
const (
	coldLimit    = 3 * time.Minute // unless Options name one
	settleLimit  = 2 * time.Minute // at least: as long as a cold start may take
	serverAway   = 10 * time.Second
	cutTime      = 20 * time.Second
	deathLimit   = 15 * time.Second
	deathPause   = 3 * time.Second
	verdictLimit = time.Minute
)

// processors is how many this machine has.
func processors() int { return runtime.NumCPU() }
