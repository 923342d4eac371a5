package agent

import (
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"shoal/model"
)

const (
	maxServiceSeries = 500 // services with series of their own
	maxNodeSeries    = 100 // hosts likewise
)

// otherServices is the name under which the services without series of their own
// are summed. No service can have it: an underscore is in no DNS label.
var otherServices = model.ServiceID{Stack: "_other", Name: "_other"}

// seriesBound keeps the number of series bounded however many services there are.
// A service that has series of its own keeps them until it is gone, so that no
// counter falls because a service came whose name is earlier in the alphabet.
type seriesBound struct {
	limit int

	mu     sync.Mutex // held by who calls what follows
	own    map[model.ServiceID]bool
	others map[counter]*tally
}

// counter is what is counted of each service: a metric, or the series of it that have a label.
type counter struct {
	desc *prometheus.Desc
	via  string // the label's value; "": it has none
}

// tally adds up what the counters of other services grew by.
type tally struct {
	total uint64
	round uint64 // how often it was added to
	last  map[model.ServiceID]reading
}

// reading is what a counter was, and the round in which it was read.
type reading struct{ value, round uint64 }

func newSeriesBound(limit int) *seriesBound {
	return &seriesBound{limit: limit, own: map[model.ServiceID]bool{}, others: map[counter]*tally{}}
}

// admit takes in which services there are now, in order.
func (b *seriesBound) admit(services []*model.Service) {
	for id := range b.own {
		if _, there := slices.BinarySearchFunc(services, id, func(s *model.Service, id model.ServiceID) int { return s.ID.Compare(id) }); !there {
			delete(b.own, id)
		}
	}
	for _, s := range services {
		if len(b.own) >= b.limit {
			return
		}
		b.own[s.ID] = true
	}
}

// name is what a service is called in series: itself, or otherServices.
func (b *seriesBound) name(id model.ServiceID) model.ServiceID {
	if b.own[id] {
		return id
	}
	return otherServices
}

// sum is what to show of a counter: the services with series of their own, and
// the growth of all others in one series, which does not fall when one of them goes.
func (b *seriesBound) sum(c counter, counts iter.Seq2[model.ServiceID, uint64]) map[model.ServiceID]uint64 {
	shown := map[model.ServiceID]uint64{}
	others := b.others[c]
	if others == nil {
		others = &tally{last: map[model.ServiceID]reading{}}
		b.others[c] = others
	}
	others.round++
	there := 0
	for id, n := range counts {
		if b.own[id] {
			shown[id] = n
			continue
		}
		if was := others.last[id].value; n >= was {
			others.total += n - was
		} else { // it was made anew
			others.total += n
		}
		others.last[id] = reading{n, others.round}
		there++
	}
	if len(others.last) > there {
		maps.DeleteFunc(others.last, func(_ model.ServiceID, r reading) bool { return r.round < others.round })
	}
	if others.total > 0 || there > 0 {
		shown[otherServices] = others.total
	}
	return shown
}
