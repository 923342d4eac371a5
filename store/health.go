package store

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Health is how the store fares, for people.
type Health struct {
	Endpoints []string `json:"endpoints"` // of etcd
	Embedded  bool     `json:"embedded"`  // etcd runs for this host
	Role      Role     `json:"role"`
	Connected bool     `json:"connected"`         // etcd answers
	Leader    string   `json:"leader,omitempty"`  // raft's ID of the leader, in hex
	Version   string   `json:"version,omitempty"` // etcd's
	DBSize    int64    `json:"dbSize"`            // bytes on etcd's disk
	Error     string   `json:"-"`                 // why etcd does not answer; "" while it does
}

// statusTimeout is how long etcd may take to say how it is.
const statusTimeout = time.Second

// Health tells how the store fares. It asks etcd, for a second at the most.
func (s *Store) Health() Health {
	h := Health{Endpoints: s.client.Endpoints()}
	s.mu.Lock()
	h.Embedded, h.Role = s.server != nil, s.place.Role
	s.mu.Unlock()
	if err := s.Down(); err != nil {
		h.Error = err.Error()
	}
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	for _, endpoint := range h.Endpoints {
		if h.Error != "" && endpoint == socketEndpoint(s.o.StateDir) {
			continue // the reason is better than that nobody is there
		}
		r, err := s.status(ctx, endpoint)
		if err != nil {
			h.Error = fmt.Sprintf("%s: %v", endpoint, err)
			continue
		}
		h.Connected = r.Leader != 0
		h.Version, h.DBSize = r.Version, r.DbSize
		if h.Connected {
			h.Leader, h.Error = fmt.Sprintf("%x", r.Leader), ""
			break
		}
		h.Error = endpoint + ": it has no leader"
	}
	return h
}

// status asks one endpoint how it is. It takes a client of its own for that: one
// whose endpoints change meanwhile does not bear it.
func (s *Store) status(ctx context.Context, endpoint string) (*clientv3.StatusResponse, error) {
	c, err := s.dial([]string{endpoint})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Status(ctx, endpoint)
}

// Down is why this host's own etcd does not run, which should; nil: it does, or
// there is to be none. It makes no request.
func (s *Store) Down() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil || s.place.Role != RoleAlone && s.place.Role != RoleServer {
		return nil
	}
	return s.down
}
