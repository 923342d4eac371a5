package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// A store that is an etcd of the user's is shared by hosts that are all equal:
// each may change anything in it, by the credentials that the user gave it. So
// nobody has to admit them. The CA and its key are in the store, each host
// issues its own certificate, and whichever hosts are lost, the others can do
// all that they could.

// authorityKey holds the CA of hosts that share the store, beside the records
// of tokens and members.
const authorityKey = "authority"

// sharedAuthority is what makes a cluster, as the store holds it: whole or not
// at all.
type sharedAuthority struct {
	Cert   []byte `json:"cert"` // PEM
	Key    []byte `json:"key"`  // PEM
	Gossip []byte `json:"gossip"`
}

// ErrOtherCluster says that the store is one that hosts of another cluster share.
var ErrOtherCluster = errors.New("the store is of another cluster than this host")

// JoinByStore makes this host a member of the cluster whose hosts share the
// store, or the first of a new one. It is for a host that has no identity, and
// for a store whose users are trusted with everything: nobody else is asked. If
// it breaks off, it can be called again, by this host or by any other.
func JoinByStore(ctx context.Context, h Host, s Store) (*Identity, error) {
	return joinByStore(ctx, h, &Registry{s, time.Now})
}

func joinByStore(ctx context.Context, h Host, r *Registry) (*Identity, error) {
	fail := func(err error) (*Identity, error) {
		return nil, fmt.Errorf("join the cluster that the store is of, as %s: %w", h.Node, err)
	}
	if err := h.check(); err != nil {
		return fail(err)
	}
	a, gossip, err := r.authority(ctx)
	if err == nil && a == nil {
		a, gossip, err = r.newAuthority(ctx)
	}
	if err != nil {
		return fail(err)
	}
	key, err := newKey()
	if err != nil {
		return fail(err)
	}
	cert, err := a.issue(h.Node, h.Addr, &key.PublicKey, r.now())
	if err != nil {
		return fail(err)
	}
	err = r.enrol(ctx, Member{Node: h.Node, Addr: h.Addr, Key: keyOf(cert), CA: true}, cert)
	if errors.Is(err, ErrNameTaken) {
		err = fmt.Errorf("%w; use another with --node, or, if that host is gone for good, run on another: shoal node rm %s", err, h.Node)
	}
	if err != nil {
		return fail(err)
	}
	id, err := a.saveFirst(h, cert, key, gossip, r.now)
	if err != nil {
		return fail(err)
	}
	return id, nil
}

// authority is the CA in the store, and the key of gossip; nil if there is none.
func (r *Registry) authority(ctx context.Context) (*authority, []byte, error) {
	value, revision, err := r.store.Get(ctx, authorityKey)
	if err != nil || revision == 0 {
		return nil, nil, err
	}
	var s sharedAuthority
	a := new(authority)
	if err = json.Unmarshal(value, &s); err == nil {
		a.cert, err = parseCertPEM(s.Cert)
	}
	if err == nil {
		a.key, err = parseKeyPEM(s.Key)
	}
	if err == nil && !a.key.PublicKey.Equal(a.cert.PublicKey) {
		err = errors.New("its key is another's")
	}
	if err == nil && len(s.Gossip) != gossipKeyBytes {
		err = fmt.Errorf("the key of gossip has %d bytes, not %d", len(s.Gossip), gossipKeyBytes)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the CA in the store cannot be read: %w; if its record is deleted, a host of the cluster writes it anew", err)
	}
	return a, s.Gossip, nil
}

// newAuthority makes a CA and puts it into the store. Of several hosts that do,
// one is first, and its CA is that of all.
func (r *Registry) newAuthority(ctx context.Context) (*authority, []byte, error) {
	a, err := newAuthority(r.now())
	if err != nil {
		return nil, nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	if err := r.putAuthority(ctx, a, newGossipKey()); err != nil {
		return nil, nil, err
	}
	stored, gossip, err := r.authority(ctx)
	if err == nil && stored == nil {
		err = errors.New("the CA that was just put into the store is gone again")
	}
	return stored, gossip, err
}

// putAuthority puts a CA into the store if there is none.
func (r *Registry) putAuthority(ctx context.Context, a *authority, gossip []byte) error {
	key, err := keyPEM(a.key)
	if err != nil {
		return err
	}
	_, err = r.store.Commit(ctx, map[string]int64{authorityKey: 0},
		map[string][]byte{authorityKey: encode(sharedAuthority{certPEM(a.cert), key, gossip})})
	return err
}

// ShareCA keeps the CA's key both in the store and on this host, and this host
// in the list of members, for hosts that share a store as [JoinByStore] says:
// also where that lost its data, or this host joined another way. What goes
// wrong is logged and tried again until ctx ends; it returns before only if this
// host is not of the cluster, or not any more.
func (id *Identity) ShareCA(ctx context.Context, r *Registry) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	r.follow(ctx, authorityKey, func() error {
		err := id.shareCA(ctx, r)
		if err == nil {
			err = r.Enrol(ctx, id)
		}
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, ErrRemoved), errors.Is(err, ErrNameTaken), errors.Is(err, ErrOtherCluster):
			id.host.Log.Error("this host is not of the cluster that the store is of: to become one of it, "+
				"stop the agent, move its folder away and start it again", "folder", id.host.Dir, "error", err)
			stop()
		default:
			id.host.Log.Warn("the cluster's CA is not shared with the other hosts yet", "error", err)
		}
		return err
	})
}

func (id *Identity) shareCA(ctx context.Context, r *Registry) error {
	stored, _, err := r.authority(ctx)
	own := id.authority()
	switch {
	case err != nil:
		return err
	case stored != nil && sum(stored.cert) != id.caSum:
		return ErrOtherCluster
	case stored != nil && own == nil:
		key, err := keyPEM(stored.key)
		if err != nil {
			return err
		}
		return id.keepCAKey(key)
	case stored == nil && own == nil:
		return errors.New("neither the store nor this host holds its key")
	case stored == nil:
		return r.putAuthority(ctx, own, id.gossip)
	}
	return nil
}
