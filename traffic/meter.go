package traffic

import (
	"slices"

	"shoal/model"
)

// ServiceRate is how much goes to a service, over all hosts.
type ServiceRate struct {
	ID          model.ServiceID `json:"id"`
	Connections float64         `json:"connections"` // new ones, a second
	BytesIn     float64         `json:"bytesIn"`     // a second; 0 where the data plane counts none
	BytesOut    float64         `json:"bytesOut"`
}

// FlowRate is how much goes between the two of a pair, over all hosts.
type FlowRate struct {
	Pair
	Connections float64 `json:"connections"` // new ones, a second
	Open        int     `json:"open"`        // established now
}

// Picture is the traffic of the cluster.
type Picture struct {
	Services []ServiceRate     // those with counters, by ID
	Flows    []FlowRate        // by pair
	Unknown  map[string]string // hosts whose part is missing, and why
}

// Meter makes rates of counts. The zero value is ready. It is not safe for
// concurrent use.
type Meter struct {
	parts map[string]part // by host
}

// part is a host's.
type part struct {
	count    Count
	services []ServiceRate
	flows    []FlowRate
}

// Update takes in what hosts have counted now, and returns the rates since each of
// them counted before. A host that is new, or whose agent was started anew, has
// open connections only; rates come with the next update.
func (m *Meter) Update(counts map[string]Count) Picture {
	p := Picture{Unknown: map[string]string{}}
	services := map[model.ServiceID]*ServiceRate{}
	flows := map[Pair]*FlowRate{}
	parts := make(map[string]part, len(counts))
	for host, now := range counts {
		one := m.parts[host]
		if one.count.Run != now.Run || one.count.At != now.At { // else it has not looked since
			one = measure(one.count, now)
		}
		parts[host] = one
		for _, s := range one.services {
			sum := sumOf(services, s.ID)
			sum.ID = s.ID
			sum.Connections += s.Connections
			sum.BytesIn += s.BytesIn
			sum.BytesOut += s.BytesOut
		}
		for _, f := range one.flows {
			sum := sumOf(flows, f.Pair)
			sum.Pair = f.Pair
			sum.Connections += f.Connections
			sum.Open += f.Open
		}
		if now.Unsampled != "" {
			p.Unknown[host] = now.Unsampled
		}
	}
	m.parts = parts
	for _, s := range services {
		p.Services = append(p.Services, *s)
	}
	for _, f := range flows {
		p.Flows = append(p.Flows, *f)
	}
	slices.SortFunc(p.Services, func(a, b ServiceRate) int { return a.ID.Compare(b.ID) })
	slices.SortFunc(p.Flows, func(a, b FlowRate) int { return a.Compare(b.Pair) })
	return p
}

// sumOf is that of a key, which is made if it is not there.
func sumOf[K comparable, V any](m map[K]*V, k K) *V {
	v := m[k]
	if v == nil {
		v = new(V)
		m[k] = v
	}
	return v
}

// measure makes the rates between two counts of a host.
func measure(was, now Count) part {
	one := part{count: now}
	seconds := 0.0
	if was.Run == now.Run && now.At > was.At {
		seconds = (now.At - was.At).Seconds()
	}
	counted := make(map[model.ServiceID]Service, len(was.Services))
	for _, s := range was.Services {
		counted[s.ID] = s
	}
	for _, s := range now.Services {
		r := ServiceRate{ID: s.ID}
		if o, ok := counted[s.ID]; ok {
			r.Connections, r.BytesIn, r.BytesOut = rate(o.Opened, s.Opened, seconds), rate(o.BytesIn, s.BytesIn, seconds), rate(o.BytesOut, s.BytesOut, seconds)
		}
		one.services = append(one.services, r)
	}
	opened := make(map[Pair]uint64, len(was.Flows))
	for _, f := range was.Flows {
		opened[f.Pair] = f.Opened
	}
	for _, f := range now.Flows {
		r := FlowRate{Pair: f.Pair, Open: f.Open}
		if was.Unsampled == "" { // else the pair need not be new
			r.Connections = rate(opened[f.Pair], f.Opened, seconds)
		}
		one.flows = append(one.flows, r)
	}
	return one
}

// rate is how much a counter grew, a second. One that was set back says nothing
// this time.
func rate(was, now uint64, seconds float64) float64 {
	if now < was || seconds == 0 {
		return 0
	}
	return float64(now-was) / seconds
}
