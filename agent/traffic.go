package agent

import (
	"context"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"shoal/api"
	"shoal/lb/host"
	"shoal/traffic"
)

// Bounds of asking all hosts what they count.
const (
	trafficTime = 3 * time.Second // for a host to answer
	trafficAsks = 32              // hosts that are asked at a time
)

// newSampler counts on this host.
func (a *Agent) newSampler() *traffic.Sampler {
	tracked := func() (int, error) {
		n, _, err := host.Tracked()
		return n, err
	}
	return traffic.NewSampler(a.started, tracked, func() ([]traffic.Service, error) {
		counted, err := a.balancer.Stats()
		var all []traffic.Service
		for _, s := range counted {
			c := s.Stats.Add(s.Published)
			all = append(all, traffic.Service{ID: s.Service, Opened: c.Connections, BytesIn: c.BytesIn, BytesOut: c.BytesOut})
		}
		return all, err
	})
}

// counted is what this host has counted.
func (a *Agent) counted() (traffic.Count, error) {
	s, err := a.snapshot()
	if err != nil {
		return traffic.Count{}, err
	}
	return a.sampler.Count(s, time.Now())
}

// traffic is what all live hosts have counted. They are asked at once: one that does
// not answer delays the rest by [trafficTime].
func (a *Agent) traffic(ctx context.Context) (api.Traffic, error) {
	s, err := a.snapshot()
	if err != nil {
		return api.Traffic{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, trafficTime)
	defer cancel()
	t := api.Traffic{Hosts: map[string]traffic.Count{}, Unknown: map[string]string{}}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(trafficAsks)
	for _, n := range s.Nodes {
		own := n.Name == s.Self.Name
		if !own && !n.Alive {
			continue
		}
		g.Go(func() error {
			var c traffic.Count
			var err error
			if own {
				c, err = a.counted()
			} else {
				err = a.member.ask(ctx, http.MethodGet, n.Addr, "/v1/traffic", &c)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Unknown[n.Name] = err.Error()
			} else {
				t.Hosts[n.Name] = c
			}
			return nil
		})
	}
	return t, g.Wait()
}

// serveTraffic gives what this host has counted to another.
func (m *membership) serveTraffic(w http.ResponseWriter, _ *http.Request) {
	c, err := m.counted()
	api.Reply(w, c, err)
}
