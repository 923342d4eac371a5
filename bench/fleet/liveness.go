package fleet

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"shoal/cluster"
)

// livenessArgs say which hosts' liveness a worker has.
type livenessArgs struct {
	Dir           string
	Hosts         []int // its own
	Total, Askers int   // hosts in all, and those that ask all others
}

// lives are the hosts of a worker.
type lives struct {
	args  livenessArgs
	hosts []*lifeHost
}

type lifeHost struct {
	number int
	asker  bool
	life   *cluster.Liveness
}

// livenessActions are those of a worker that has hosts' liveness.
func livenessActions() map[string]action {
	l := new(lives)
	return map[string]action{
		"start":    does(l.start),
		"await":    does(l.await),
		"verdicts": does(l.verdicts),
		"wrong":    does(l.wrong),
		"deaths":   does(l.deaths),
		"unmet":    does(l.unmet),
	}
}

// start starts all hosts at once.
func (l *lives) start(a livenessArgs) (any, error) {
	l.args = a
	asking := spread(a.Total, a.Askers)
	all := map[string]netip.Addr{}
	for h := range a.Total {
		all[nodeName(h)] = hostAddr(h)
	}
	l.hosts = make([]*lifeHost, len(a.Hosts))
	var wg sync.WaitGroup
	errs := make(chan error, len(a.Hosts))
	for i, n := range a.Hosts {
		wg.Go(func() {
			h := &lifeHost{number: n, asker: asking[n]}
			l.hosts[i] = h
			peers := all
			if !h.asker {
				next := (n + 1) % a.Total
				peers = map[string]netip.Addr{nodeName(next): hostAddr(next)}
			}
			id, err := cluster.Load(identityOf(a.Dir, nodeName(n), hostAddr(n)))
			if err == nil {
				h.life, err = cluster.StartLiveness(cluster.LivenessOptions{
					Node: nodeName(n), Addr: hostAddr(n), Identity: id, Peers: func() map[string]netip.Addr { return peers },
					Log: slog.Default().With("node", nodeName(n)),
				})
			}
			if err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
		return nil, nil
	}
}

// each calls f for every verdict of a host that asks all others.
func (l *lives) each(f func(asker int, of int, s *cluster.PeerState)) {
	numbers := make(map[string]int, l.args.Total)
	for h := range l.args.Total {
		numbers[nodeName(h)] = h
	}
	for _, h := range l.hosts {
		if !h.asker {
			continue
		}
		states := h.life.States()
		for i := range states {
			f(h.number, numbers[states[i].Node], &states[i])
		}
	}
}

// await waits until each asker has heard all others, and considers them alive.
func (l *lives) await(a awaitArgs) (any, error) {
	var s settled
	done := map[int]bool{}
	for end := time.Now().Add(a.Limit); ; time.Sleep(200 * time.Millisecond) {
		open := map[int]bool{}
		l.each(func(asker, _ int, st *cluster.PeerState) {
			open[asker] = open[asker] || !st.Alive || st.Heard.IsZero()
		})
		s.Open = 0
		for asker, still := range open {
			switch {
			case still:
				s.Open++
			case !done[asker]:
				done[asker] = true
				s.Took = append(s.Took, time.Since(a.Since))
			}
		}
		if s.Open == 0 || time.Now().After(end) {
			return s, nil
		}
	}
}

// verdictArgs say which verdicts are asked for: those across a cut between two sets of
// hosts, of which one is given.
type verdictArgs struct {
	Cut    []int
	Inside bool // also those of the hosts of the set, of the others
	Alive  bool // which verdict is right
	Since  time.Time
}

// verdicts are how long it took until right verdicts were given.
func (l *lives) verdicts(a verdictArgs) (any, error) {
	var s settled
	in := map[int]bool{}
	for _, h := range a.Cut {
		in[h] = true
	}
	l.each(func(asker, of int, st *cluster.PeerState) {
		switch {
		case in[asker] == in[of], in[asker] && !a.Inside:
		case st.Alive != a.Alive:
			s.Open++
		default:
			s.Took = append(s.Took, st.Since.Sub(a.Since))
		}
	})
	return s, nil
}

// unmet counts the pairs of an asker and another host that it does not have in its gossip.
func (l *lives) unmet(struct{}) (any, error) {
	n := 0
	l.each(func(_, _ int, st *cluster.PeerState) {
		if !st.Met.IsValid() {
			n++
		}
	})
	return n, nil
}

// wrong counts the verdicts of death on hosts that live, that are in force or that ended
// since then. Those across a cut are left out.
func (l *lives) wrong(a verdictArgs) (any, error) {
	n := 0
	in := map[int]bool{}
	for _, h := range a.Cut {
		in[h] = true
	}
	l.each(func(asker, of int, st *cluster.PeerState) {
		if in[asker] == in[of] && !(in[asker] && !a.Inside) && (!st.Alive || st.Since.After(a.Since)) {
			n++
		}
	})
	return n, nil
}

// deathArgs say which host died, which were dead at the end, and when it died.
type deathArgs struct {
	Host  int
	Dead  []int
	Since time.Time
}

// deaths are how long it took until hosts that live considered one dead.
func (l *lives) deaths(a deathArgs) (any, error) {
	var s settled
	gone := map[int]bool{}
	for _, h := range a.Dead {
		gone[h] = true
	}
	l.each(func(asker, of int, st *cluster.PeerState) {
		switch {
		case of != a.Host || gone[asker]:
		case st.Alive:
			s.Open++
		default:
			s.Took = append(s.Took, st.Since.Sub(a.Since))
		}
	})
	return s, nil
}
