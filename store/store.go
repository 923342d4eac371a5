package store

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"shoal/model"
	"shoal/store/etcd"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Options say where the store is.
type Options struct {
	Node     string       // this host's name
	StateDir string       // root's only: etcd's data, its socket, the host's role. One process at a time
	Etcd     []string     // endpoints of an etcd that the user runs; none: hosts run one themselves
	TLS      *tls.Config  // for Etcd
	Peers    *Peers       // how the embedded etcds of several hosts reach each other; nil: this host stays alone
	Join     []string     // endpoints of servers of the cluster to join, "https://ADDR:2379"; in a later run not needed
	Log      *slog.Logger // nil: slog.Default

	// Of tests, which are in more of a hurry:

	unchecked bool // embedded etcds change their members before all are connected for 5 s
	unsynced  bool // embedded etcds do not wait for the disk

	maintainEvery time.Duration // see maintain; 0: maintainEvery
	quota         int64         // of an embedded etcd, in bytes; 0: etcdQuota
}

// Store is this host's access to etcd, and its part in running it. Its methods
// may be called at any time from any goroutine.
type Store struct {
	o      Options
	log    *slog.Logger
	lock   *dirLock
	client *etcd.Client
	run    context.Context // until Close
	cancel context.CancelFunc
	done   sync.WaitGroup

	closing  sync.Once
	closeErr error

	roleLock  chan struct{} // of capacity 1: held by what changes the role of this host
	routeLock sync.Mutex    // of the client's endpoints and the file that keeps them; taken before mu
	changed   chan struct{} // of capacity 1: this host's record in etcd may have to change

	mu       sync.Mutex
	place    place
	found    []string         // endpoints that other hosts named, see Found
	server   *server          // nil: none runs for this host
	down     error            // why none runs that should
	restarts etcd.Backoff     // between starts of etcd; startAgain's
	said     string           // the last of those that was logged; by who starts it
	servers  map[string]entry // hosts that serve the store, by name, this one among them: as etcd has them
	dead     map[string]bool  // hosts that do not answer
	revision int64            // etcd's, of servers
	pruned   bool             // see pruneServers; by followServers alone
	dataGone bool             // see giveUpVote; likewise
}

// Open opens the store. An etcd may be away: the client connects when it is there.
// That goes for one of this host that does not start as well: [Store.Health] tells
// why, and it is tried again.
//
// The context bounds Open, not the life of the Store: that ends with Close.
func Open(ctx context.Context, o Options) (_ *Store, err error) {
	if err := model.CheckNodeName(o.Node); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o.Log = cmp.Or(o.Log, slog.Default())
	s := &Store{
		o:        o,
		log:      o.Log,
		roleLock: make(chan struct{}, 1),
		changed:  make(chan struct{}, 1),
	}
	s.run, s.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	if s.lock, err = lockDir(o.StateDir); err != nil {
		return nil, err
	}
	if len(o.Etcd) > 0 {
		s.place.Role = RoleExternal
		if s.client, err = s.dial(o.Etcd); err != nil {
			return nil, fmt.Errorf("etcd at %v: %w; check the endpoints, host:port or https://host:port", o.Etcd, err)
		}
		return s, nil
	}
	if err := s.openPlace(); err != nil {
		return nil, err
	}
	if s.place.Role != RoleClient {
		if err := checkSocket(o.StateDir); err != nil {
			return nil, err
		}
		if s.server, s.down = s.startServer(ctx, s.place.Role, nil); ctx.Err() != nil {
			return nil, cmp.Or(s.down, ctx.Err())
		} else if s.down != nil {
			s.logDown(s.down)
		} else {
			s.server.unlisted = s.place.Promoting
		}
	}
	if s.client, err = s.dial(s.endpoints()); err != nil {
		return nil, err
	}
	s.done.Go(s.followServers)
	switch {
	case s.server != nil:
		s.supervise(s.server)
	case s.down != nil:
		s.done.Go(func() { s.startAgain(nil) })
	}
	return s, nil
}

// openPlace finds this host's role: the one it had, or the one it starts with.
func (s *Store) openPlace() (err error) {
	o := &s.o
	if s.place, err = readPlace(o.StateDir); err != nil {
		return err
	}
	if s.place.Role == RoleServer && len(s.place.Servers) > 0 && !hasData(o.StateDir) {
		// It would begin a second store. What is on the disk stays as it is until the
		// others answer: the data may be put back.
		s.log.Error("the data of this host's store are gone: it uses those of the other hosts, and has no vote until it serves the store again, "+
			"which it does by itself with --servers auto, or by shoal server promote", "folder", dataDir(o.StateDir))
		s.place.Role, s.place.Promoting, s.dataGone = RoleClient, false, true
	}
	s.pruned = s.place.Role != RoleServer
	before := s.place
	before.Servers = slices.Clone(before.Servers)
	if s.place.Role == "" {
		if WasRestored(o.StateDir) {
			return fmt.Errorf("a restore of the store broke off in %s: move that folder away, and restore again", o.StateDir)
		}
		s.place.Role = RoleAlone
		if len(o.Join) > 0 {
			if _, err := os.Stat(dataDir(o.StateDir)); err == nil {
				return fmt.Errorf("this host has a store of its own in %s, so it cannot join another's cluster; "+
					"move %s away to give it up, and join again", dataDir(o.StateDir), o.StateDir)
			}
			s.place.Role = RoleClient
		}
	}
	for _, endpoint := range o.Join {
		if err := checkEndpoint(endpoint); err != nil {
			return fmt.Errorf("join: %w", err)
		}
		if !slices.Contains(s.place.Servers, endpoint) {
			s.place.Servers = append(s.place.Servers, endpoint)
		}
	}
	if s.place.Role == RoleAlone {
		return nil
	}
	if o.Peers == nil {
		return fmt.Errorf("this host is a %s of a cluster, and its certificate is missing; join again", s.place.Role)
	}
	if reflect.DeepEqual(s.place, before) {
		return nil // the disk may be full
	}
	return s.place.write(o.StateDir)
}

// dial makes a client of etcd.
func (s *Store) dial(endpoints []string) (*etcd.Client, error) {
	if len(s.o.Etcd) > 0 {
		return etcd.Dial(endpoints, s.o.TLS)
	}
	var t *tls.Config
	if s.o.Peers != nil {
		t = s.o.Peers.TLS
	}
	return etcd.Dial(endpoints, nil, grpc.WithTransportCredentials(perNetwork{credentials.NewTLS(t)}))
}

// Client returns the client of etcd, which is good until Close. Its endpoints
// are the Store's to change.
func (s *Store) Client() *etcd.Client { return s.client }

// Connected tells whether there is a connection to etcd, without a request.
func (s *Store) Connected() bool { return s.client.Connected() }

// Role is this host's part in keeping the store. It makes no request.
func (s *Store) Role() Role {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.place.Role
}

// Close closes the client and stops an embedded etcd. Who uses the client has
// to be done with it.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.cancel()
		s.roleLock <- struct{}{} // for good: no change of roles is under way
		s.done.Wait()
		if s.client != nil {
			s.closeErr = s.client.Close()
		}
		if s.server != nil {
			s.server.close()
		}
		if s.lock != nil {
			s.lock.release()
		}
	})
	return s.closeErr
}
