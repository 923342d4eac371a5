package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"shoal/model"
	"shoal/store"
)

// storeEvery is how often it is looked how the store fares.
const storeEvery = 5 * time.Second

// lowDisk is how little room of its disk makes the state folder's a problem, in
// bytes.
const lowDisk = 500e6

// storeHealth is what of the store, and of this host's part in it, can be wrong.
type storeHealth struct {
	away     bool        // etcd does not answer, for longer than storeEvery
	full     bool        // etcd takes no more writes
	external bool        // the etcd is one of the user's
	servers  []candidate // hosts that serve the store, as it last told; none: not known
	down     error       // why this host's own etcd does not run, which should
	free     int64       // bytes, on the disk of the state folder; -1: not known
	dir      string
}

// watchStore says for as long as ctx lasts what is wrong with the store.
func (a *Agent) watchStore(ctx context.Context) {
	tick := time.NewTicker(storeEvery)
	defer tick.Stop()
	for before := false; ; {
		away := a.catalog.Away()
		h := storeHealth{away: away && before, full: a.catalog.Full(), external: a.member.external(), down: a.store.Down(), dir: a.config.StateDir}
		before = away
		if h.away {
			h.servers = slices.DeleteFunc(a.member.serverCandidates(), func(c candidate) bool { return !c.serves })
		}
		var err error
		if h.free, err = store.Free(h.dir); err != nil {
			h.free = -1
		}
		a.problems.Set("store", h.problems(a.config.Node))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lacking says what a store that does not answer lacks, and what to do.
func (h storeHealth) lacking() string {
	var all, dead []string
	for _, c := range h.servers {
		all = append(all, c.name)
		if !c.alive {
			dead = append(dead, c.name)
		}
	}
	slices.Sort(all)
	slices.Sort(dead)
	need := len(all)/2 + 1 // a quorum
	switch {
	case h.external:
		return "it is one of yours: start it, or see to the network between (--etcd)"
	case len(all) == 0:
		return "see by shoal nodes, on another host too, which hosts serve it, and start them; of three, two have to be alive"
	case len(all)-len(dead) < need:
		return fmt.Sprintf("it needs %d of the hosts that serve it (%s); these are dead: %s. Start them, or see to the network between; "+
			"if they are lost for good, restore a backup (shoal store restore), or make a new store of what the hosts know (shoal server recover)",
			need, strings.Join(all, ", "), strings.Join(dead, ", "))
	}
	return fmt.Sprintf("it needs %d of the hosts that serve it (%s), of which enough are alive: see there that the agent runs (systemctl status shoal), and that TCP 2379 and 2380 are open between them",
		need, strings.Join(all, ", "))
}

// problems say what is wrong, and what to do.
func (h storeHealth) problems(node string) (ps []model.Problem) {
	add := func(code model.Code, object, why string) {
		ps = append(ps, model.Problem{Node: node, Code: code, Kind: "store", Object: object, Reason: why})
	}
	if h.away && !h.full && h.down == nil { // else that is why
		add(model.StoreUnreachable, "etcd", "the store does not answer, or has no leader: all that is known stays in use, and hosts tell each other of containers; new VIPs, newly published ports and hosts that join wait. "+
			"shoal status has the error; "+h.lacking())
	}
	switch {
	case h.full && h.external:
		add(model.StoreFull, "etcd", "etcd holds as much as it may, and takes no more writes; it is one of yours: compact and defragment it, then disarm its alarm (etcdctl compact, defrag, alarm disarm)")
	case h.full:
		add(model.StoreFull, "etcd", "etcd holds as much as it may, and takes no more writes; its servers free what they can within seconds: if this stays, remove services and containers that nobody needs, and see the servers' logs")
	}
	if h.down != nil {
		add(model.StoreDown, "etcd", fmt.Sprintf("this host's etcd does not run, and is tried again; what is known stays in use, and changes wait where no other host serves the store: %v", h.down))
	}
	if h.free >= 0 && h.free < lowDisk {
		add(model.DiskNearlyFull, h.dir, fmt.Sprintf("the disk of %s has %d MB left: etcd ends when it is full; free some room (docker system df shows what the engine holds)", h.dir, h.free/1e6))
	}
	return ps
}
