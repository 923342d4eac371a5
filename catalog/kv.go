package catalog

import (
	"context"
	"strings"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// KV is a part of the store for what others keep there: tokens and members of
// the cluster. Keys are paths such as "members/NODE".
type KV struct{ c *Catalog }

// KV returns the part of the store that is free for others.
func (c *Catalog) KV() KV { return KV{c} }

// Get returns a key's value and the revision it was written at. Where there is
// no such key, the revision is 0 and the error nil.
func (kv KV) Get(ctx context.Context, key string) (value []byte, revision int64, err error) {
	r, err := kv.c.commit(ctx, nil, []clientv3.Op{clientv3.OpGet(kvRoot + key)}, nil)
	if err != nil {
		return nil, 0, err
	}
	if found := first(r, 0); found != nil {
		return found.Value, found.ModRevision, nil
	}
	return nil, 0, nil
}

// List returns the keys that begin with prefix, with their values.
func (kv KV) List(ctx context.Context, prefix string) (map[string][]byte, error) {
	r, err := kv.c.commit(ctx, nil, []clientv3.Op{clientv3.OpGet(kvRoot+prefix, clientv3.WithPrefix())}, nil)
	if err != nil {
		return nil, err
	}
	all := map[string][]byte{}
	for _, found := range r.Responses[0].GetResponseRange().Kvs {
		all[strings.TrimPrefix(string(found.Key), kvRoot)] = found.Value
	}
	return all, nil
}

// Commit writes all of write, at most 128 keys (a nil value deletes one), in one
// transaction, if every key of unchanged still has the revision given there
// (0: is not there). It tells whether it did.
func (kv KV) Commit(ctx context.Context, unchanged map[string]int64, write map[string][]byte) (done bool, err error) {
	var conds []clientv3.Cmp
	for key, revision := range unchanged {
		conds = append(conds, clientv3.Compare(clientv3.ModRevision(kvRoot+key), "=", revision))
	}
	var ops []clientv3.Op
	for key, value := range write {
		if value == nil {
			ops = append(ops, clientv3.OpDelete(kvRoot+key))
		} else {
			ops = append(ops, clientv3.OpPut(kvRoot+key, string(value)))
		}
	}
	r, err := kv.c.commit(ctx, conds, ops, nil)
	if err != nil {
		return false, err
	}
	return r.Succeeded, nil
}

// Watch returns a channel that receives when keys beginning with prefix may have
// changed; several changes may come as one. It is closed when ctx ends, and
// not before.
func (kv KV) Watch(ctx context.Context, prefix string) <-chan struct{} {
	return kv.c.subscribers.add(ctx, kvRoot+prefix)
}

// subscribers are notified of changes below a prefix. The catalog's own watch finds
// these changes: one stream serves all.
type subscribers struct {
	mu       sync.Mutex
	prefixes map[chan struct{}]string
}

func (s *subscribers) add(ctx context.Context, prefix string) <-chan struct{} {
	ch := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.prefixes == nil {
		s.prefixes = map[chan struct{}]string{}
	}
	s.prefixes[ch] = prefix
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.prefixes, ch)
		close(ch)
	})
	return ch
}

// notify notifies of a change of a key.
func (s *subscribers) notify(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch, prefix := range s.prefixes {
		if strings.HasPrefix(key, prefix) {
			wake(ch)
		}
	}
}

// notifyAll notifies that anything may have changed.
func (s *subscribers) notifyAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch := range s.prefixes {
		wake(ch)
	}
}
