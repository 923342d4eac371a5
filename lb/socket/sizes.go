package socket

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cilium/ebpf"
)

// Size is how much of a BPF map is in use.
type Size struct {
	Map            string
	Entries, Limit int
}

// countShare bounds what counting costs: at the most this part of the time is spent on it.
const countShare = 100

// counted is how many entries those maps had that the programs write, which the kernel does not
// tell: they are listed.
type counted struct {
	mu      sync.Mutex // held while they are
	entries map[string]int
	at      time.Time
	took    time.Duration
}

// fresh tells whether what was counted need not be counted again yet. It takes 3 ms with ten
// thousand sockets open, and a fifth of a second or more with half a million.
func (c *counted) fresh(now time.Time) bool {
	return c.entries != nil && now.Sub(c.at) < countShare*c.took
}

// Sizes tells how much of the maps is in use: of services, slots and backends by what was written
// there, and of affinity and peers by a count that is as old as a hundred times what it took. The
// map counts has one element for each entry of services.
func (p *Plane) Sizes() ([]Size, error) {
	written, counting, err := p.openSizes()
	if err != nil {
		return nil, err
	}
	defer closeAll(counting)
	c := &p.counted
	c.mu.Lock()
	defer c.mu.Unlock()
	if began := time.Now(); !c.fresh(began) {
		from := &kernelMaps{byName: counting}
		affinity, peers := 0, 0
		if err := errors.Join(
			list(from, "affinity", func(clientKey, kept) { affinity++ }),
			list(from, "peers", func(uint64, peer) { peers++ }),
		); err != nil {
			return nil, err
		}
		c.entries, c.at, c.took = map[string]int{"affinity": affinity, "peers": peers}, began, time.Since(began)
	}
	return append(written,
		Size{"affinity", c.entries["affinity"], int(counting["affinity"].MaxEntries())},
		Size{"peers", c.entries["peers"], int(counting["peers"].MaxEntries())},
	), nil
}

// openSizes adds up what was written, and opens the maps that are to be counted: a pass does not
// wait for that. They are to be closed.
func (p *Plane) openSizes() (written []Size, counting map[string]*ebpf.Map, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	services, slots, backends := p.table.sizes()
	for _, s := range []Size{{Map: "services", Entries: services}, {Map: "slots", Entries: slots}, {Map: "backends", Entries: backends}} {
		s.Limit = int(p.maps.byName[s.Map].MaxEntries())
		written = append(written, s)
	}
	counting = map[string]*ebpf.Map{}
	for _, name := range []string{"affinity", "peers"} {
		if counting[name], err = p.maps.byName[name].Clone(); err != nil {
			closeAll(counting)
			return nil, nil, fmt.Errorf("open the BPF map %s: %w", name, err)
		}
	}
	return written, counting, nil
}

func closeAll(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close()
	}
}

// sizes is how many entries the maps have of frontends.
func (t *table) sizes() (services, slots, backends int) {
	services = len(t.entries)
	for _, e := range t.entries {
		slots += len(e.slots)
		if e.affinity > 0 {
			backends += len(e.backends())
		}
	}
	return services, slots, backends
}
