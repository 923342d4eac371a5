package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"shoal/store/etcd"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A server announces itself by a record in etcd: its name under this prefix, with
// a serverRecord as JSON.
const serversRoot = "/shoal/v1/servers/"

func serverKey(node string) string { return serversRoot + node }

type serverRecord struct {
	Endpoint string `json:"endpoint"`
}

// entry is a server's record as etcd has it.
type entry struct {
	endpoint string
	value    string
}

// recheckEvery is how often the records are read again though no change was
// received: an etcd that was put back to an older state tells of none.
const recheckEvery = 30 * time.Second

// followServers keeps the list of servers as etcd has it, and this host's own
// record in etcd as it should be.
func (s *Store) followServers() {
	for retry := (etcd.Backoff{}); s.run.Err() == nil; {
		err := s.syncServers(s.run)
		if err == nil {
			retry.Reset()
			continue
		}
		// Package catalog logs that etcd is away.
		s.log.Debug("read the list of servers from etcd", "error", err)
		retry.Wait(s.run)
	}
}

// syncServers reads the records, puts this host's own right, and waits for a
// change.
func (s *Store) syncServers(ctx context.Context) error {
	r, err := s.get(ctx, serversRoot, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	s.takeServers(r)
	if err := s.setEndpoints(nil); err != nil {
		s.logUnsaved(err)
	}
	if err := s.giveUpVote(ctx); err != nil {
		return err
	}
	if err := s.writeRecord(ctx); err != nil {
		return err
	}
	if err := s.pruneServers(ctx, r); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	events := s.client.Watch(ctx, serversRoot, clientv3.WithPrefix(), clientv3.WithRev(r.Header.Revision+1))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.changed:
	case <-time.After(recheckEvery):
	case r, ok := <-events:
		if !ok {
			return errors.New("the watch was closed")
		}
		return r.Err()
	}
	return nil
}

func (s *Store) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer cancel()
	return s.client.Get(ctx, key, opts...)
}

// takeServers takes over the list of servers from etcd. A record that cannot be
// read leaves what was known before it.
func (s *Store) takeServers(r *clientv3.GetResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	servers := make(map[string]entry, len(r.Kvs))
	for _, kv := range r.Kvs {
		name := strings.TrimPrefix(string(kv.Key), serversRoot)
		endpoint, err := decodeServer(kv)
		if err != nil {
			if kv.ModRevision > s.revision { // else it was logged
				s.log.Error("a record in etcd is passed over: it cannot be read", "key", string(kv.Key), "error", err)
			}
			endpoint = s.servers[name].endpoint
		}
		servers[name] = entry{endpoint, string(kv.Value)}
	}
	s.servers, s.revision = servers, r.Header.Revision
}

func decodeServer(kv *mvccpb.KeyValue) (endpoint string, err error) {
	var rec serverRecord
	if err := json.Unmarshal(kv.Value, &rec); err != nil {
		return "", err
	}
	return rec.Endpoint, checkEndpoint(rec.Endpoint)
}

// checkEndpoint reports why a client should not be sent there.
func checkEndpoint(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	if _, err := netip.ParseAddrPort(u.Host); err != nil || u.Scheme != "https" {
		return fmt.Errorf("endpoint %q: use https://ADDR:PORT", s)
	}
	return nil
}

// record is what etcd should have of this host; "": nothing.
func (s *Store) record() string {
	if s.place.Role != RoleServer || s.server == nil || s.server.unlisted {
		return ""
	}
	u := s.o.Peers.clientURL()
	return encode(serverRecord{u.String()})
}

// writeRecord puts this host's record right, if it has to be.
func (s *Store) writeRecord(ctx context.Context) error {
	s.mu.Lock()
	is, want := s.servers[s.o.Node].value, s.record()
	s.mu.Unlock()
	if is == want {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer cancel()
	var err error
	if want == "" {
		_, err = s.client.Delete(ctx, serverKey(s.o.Node))
	} else {
		_, err = s.client.Put(ctx, serverKey(s.o.Node), want)
	}
	return err
}

// giveUpVote removes the member of a host whose data are gone: while it is one, no other host takes its place,
// as etcd adds none beyond those that are up. It is done before the host's record goes, by which others
// know whose vote there is to take.
func (s *Store) giveUpVote(ctx context.Context) error {
	if !s.dataGone {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*etcd.RequestTimeout)
	defer cancel()
	err := s.changeRole(ctx, "give up the vote of this host, whose data are gone", func(ctx context.Context) error {
		if r, _ := s.role(); r != RoleClient {
			return nil // it serves again
		}
		u := s.o.Peers.peerURL()
		if err := s.removeLeftovers(ctx, u.String()); err != nil {
			return err
		}
		s.mu.Lock()
		p := s.place
		s.mu.Unlock()
		return p.write(s.o.StateDir)
	})
	if err == nil {
		s.dataGone = false
	}
	return err
}

// pruneServers removes the records of hosts that are no members of etcd: those that a backup
// has of the servers of its time. A host that serves is listed after it has become a member
// and until it is none any more, so what was listed before the members were read, and has not
// changed since, is false. Once a run is enough.
func (s *Store) pruneServers(ctx context.Context, listed *clientv3.GetResponse) error {
	if s.pruned || s.Role() != RoleServer {
		return nil
	}
	members, err := s.members(ctx)
	if err != nil {
		return err
	}
	for _, kv := range listed.Kvs {
		name := strings.TrimPrefix(string(kv.Key), serversRoot)
		if name == s.o.Node || slices.ContainsFunc(members, func(m *member) bool { return m.Name == name }) {
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
		r, err := s.client.Txn(bounded).If(clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision)).
			Then(clientv3.OpDelete(string(kv.Key))).Commit()
		cancel()
		if err != nil {
			return err
		}
		if !r.Succeeded {
			return errors.New("the list of servers has changed") // it is read again
		}
		s.log.Warn("a host is listed as one that serves the store, and does not: it is no more", "host", name)
	}
	s.pruned = true
	return nil
}

// Servers are the hosts that serve the store, by name, as etcd last told. It makes
// no request.
func (s *Store) Servers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.servers))
}

// unlist removes another host's record. This host's client leaves that host at
// once.
func (s *Store) unlist(ctx context.Context, node string) error {
	if err := s.changeMembers(ctx, func(ctx context.Context) error { // who was removed may be asked, and stops just then
		_, err := s.client.Delete(ctx, serverKey(node))
		return err
	}); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.servers, node)
	s.mu.Unlock()
	return s.setEndpoints(nil)
}

// encode writes JSON. None of the types can fail to be written.
func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
