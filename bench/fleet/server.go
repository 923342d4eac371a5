package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"shoal/cluster"
	"shoal/store"
)

// serverArgs say which server of the store a worker is.
type serverArgs struct {
	Dir  string     // of all hosts
	Node string     // its name
	Addr netip.Addr // its own
	Join netip.Addr // of a server that runs; zero: it is the first
}

// serverStatus is what etcd says.
type serverStatus struct {
	Revision  int64  // of the records: one for each transaction that wrote
	Proposals uint64 // entries that raft committed, of whatever kind
	Bytes     int64  // of the database
}

// storeActions are those of a worker that serves the store, as an agent does.
func storeActions() map[string]action {
	var s *store.Store
	return map[string]action{
		"start": does(func(a serverArgs) (_ any, err error) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			s, err = serveStore(ctx, a)
			return nil, err
		}),
		"status": func(json.RawMessage) (any, error) { return statusOf(s) },
	}
}

func serveStore(ctx context.Context, a serverArgs) (*store.Store, error) {
	id, err := cluster.Load(identityOf(a.Dir, a.Node, a.Addr))
	if err != nil {
		return nil, err
	}
	f := id.Files()
	o := store.Options{Node: a.Node, StateDir: filepath.Join(a.Dir, a.Node), Log: slog.Default(), Peers: &store.Peers{
		Addr: a.Addr, CertFile: f.Cert, KeyFile: f.Key, CAFile: f.CA, TLS: id.ClientTLS(), CRLFile: f.CRL, RevokedFile: f.Revoked,
	}}
	if a.Join.IsValid() {
		o.Join = []string{fmt.Sprintf("https://%s:%d", a.Join, store.ClientPort)}
	}
	s, err := store.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	for s.Role() != store.RoleServer {
		if s.Role() == store.RoleAlone {
			err = s.Serve(ctx)
		} else {
			_, err = s.Promote(ctx)
		}
		if err != nil && ctx.Err() != nil {
			return nil, err
		}
	}
	for { // it may have started again, and has to find a leader
		if _, err = statusOf(s); err == nil {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func statusOf(s *store.Store) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := s.Client()
	// A linearizable read: there is a leader, and a majority.
	if _, err := c.Get(ctx, "/"); err != nil {
		return nil, err
	}
	st, err := c.Status(ctx, c.Endpoints()[0])
	if err != nil {
		return nil, err
	}
	return serverStatus{st.Header.Revision, st.RaftIndex, st.DbSize}, nil
}
