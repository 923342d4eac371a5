package ui

import (
	"context"
	"time"

	"shoal/traffic"
)

// How often the parts of the document are looked at. Where that takes long, because
// the cluster is large, it is done less often: a tenth of the time at most.
const (
	statePeriod    = 500 * time.Millisecond // the Snapshot, the agent
	hostsPeriod    = 3 * time.Second        // what hosts say of each other; and with each Snapshot
	problemsPeriod = 2 * time.Second        // all hosts are asked for them
	trafficPeriod  = 3 * time.Second        // likewise

	largestShare = 10
)

// feed makes the document for as long as ctx lasts. What takes its time because
// others have to be asked (the store, other hosts) holds nothing else up.
func (s *stream) feed(ctx context.Context) {
	state, hostRows, meter := &stateFeed{}, &hostsFeed{}, &traffic.Meter{}
	go every(ctx, statePeriod, func() { s.put(ctx, state.next(s.source)) })
	go every(ctx, statePeriod, func() {
		if d := hostRows.next(ctx, s.source, time.Now()); d != nil {
			s.put(ctx, d)
		}
	})
	go every(ctx, problemsPeriod, func() { s.put(ctx, problemsOf(s.source.Problems(ctx))) })
	every(ctx, trafficPeriod, func() {
		t, err := s.source.Traffic(ctx)
		if err != nil {
			return // nothing is known yet: the cluster's row says so
		}
		d := &Document{}
		d.fillTraffic(meter.Update(t.Hosts), t.Unknown)
		s.put(ctx, d)
	})
}

// every calls f at once, then with pauses.
func every(ctx context.Context, period time.Duration, f func()) {
	for ctx.Err() == nil {
		began := time.Now()
		f()
		select {
		case <-ctx.Done():
		case <-time.After(max(period, (largestShare-1)*time.Since(began))):
		}
	}
}

// stateFeed makes what this host knows by itself.
type stateFeed struct{ revision uint64 }

func (f *stateFeed) next(from Source) *Document {
	d := &Document{Cluster: cluster(from.Status())}
	s := from.Snapshot()
	if s == nil || s.Revision == f.revision {
		return d
	}
	services, err := from.Services()
	if err != nil {
		return d
	}
	tasks, err := from.Tasks()
	if err != nil {
		return d
	}
	f.revision = s.Revision
	d.fill(s, services, tasks)
	return d
}

// hostsFeed makes the rows of hosts, which the store is asked for.
type hostsFeed struct {
	revision uint64
	asked    time.Time
}

// next is nil where it is not time yet.
func (f *hostsFeed) next(ctx context.Context, from Source, now time.Time) *Document {
	s := from.Snapshot()
	if s == nil || s.Revision == f.revision && now.Sub(f.asked) < hostsPeriod {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, hostsPeriod)
	defer cancel()
	all, err := from.Nodes(ctx)
	if err != nil {
		return nil
	}
	f.revision, f.asked = s.Revision, now
	return &Document{Hosts: hosts(all)}
}
