// Package cow has a map whose versions share what they have in common: one
// change costs a small part of a copy, and readers of an older version need no
// lock.
package cow

import (
	"encoding/binary"
	"hash/maphash"
	"iter"
	"maps"
	"math/rand/v2"
	"net/netip"
)

// shardBits says into how many parts a map is cut. A change copies the list of
// them, 8 KiB, and one: of a map of 100,000 entries a hundred.
const shardBits = 10

// Key is what can be a key.
type Key interface{ string | netip.Addr }

var seed, addrSeed = maphash.MakeSeed(), rand.Uint64()

func hash[K Key](k K) uint64 {
	switch k := any(&k).(type) {
	case *string:
		return maphash.String(seed, *k)
	case *netip.Addr:
		return hashAddr(*k)
	}
	panic("no Key")
}

// hashAddr does not allocate, as maphash would. Nobody gains by addresses that
// collide: a host's own engine gives them.
func hashAddr(a netip.Addr) uint64 {
	b := a.As16()
	high, low := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	x := (low ^ addrSeed) * 0x9E3779B97F4A7C15 // 2^64 over the golden ratio
	x = (x ^ x>>32 ^ high) * 0x9E3779B97F4A7C15
	return x ^ x>>32
}

// Map is one version of a map. It is immutable. The zero Map is empty.
type Map[K Key, V any] struct {
	shards []map[K]V // none: it is empty
	n      int
}

// Len is how many entries there are.
func (m Map[K, V]) Len() int { return m.n }

// Get returns the value of a key, and whether there is one.
func (m Map[K, V]) Get(k K) (v V, ok bool) {
	if m.n == 0 {
		return v, false
	}
	v, ok = m.shards[shardOf(hash(k))][k]
	return v, ok
}

// GetBytes is Get without making a string.
func GetBytes[V any](m Map[string, V], k []byte) (v V, ok bool) {
	if m.n == 0 {
		return v, false
	}
	v, ok = m.shards[shardOf(maphash.Bytes(seed, k))][string(k)]
	return v, ok
}

// All are the entries, in no order.
func (m Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, shard := range m.shards {
			for k, v := range shard {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

func shardOf(h uint64) int { return int(h >> (64 - shardBits)) }

// Editor makes the next version of a map. It is one goroutine's.
type Editor[K Key, V any] struct {
	m   Map[K, V]
	own []bool // shards that were copied; nil: none was, nor the list of them
}

// Edit begins the next version.
func (m Map[K, V]) Edit() *Editor[K, V] { return &Editor[K, V]{m: m} }

// shard is the key's shard, to be written to.
func (e *Editor[K, V]) shard(k K) map[K]V {
	if e.own == nil {
		shards := make([]map[K]V, 1<<shardBits)
		copy(shards, e.m.shards)
		e.m.shards, e.own = shards, make([]bool, len(shards))
	}
	i := shardOf(hash(k))
	if !e.own[i] {
		e.own[i] = true
		if e.m.shards[i] = maps.Clone(e.m.shards[i]); e.m.shards[i] == nil {
			e.m.shards[i] = map[K]V{}
		}
	}
	return e.m.shards[i]
}

// Get is [Map.Get] of the version in the making.
func (e *Editor[K, V]) Get(k K) (V, bool) { return e.m.Get(k) }

// Set gives a key a value.
func (e *Editor[K, V]) Set(k K, v V) {
	shard := e.shard(k)
	if _, had := shard[k]; !had {
		e.m.n++
	}
	shard[k] = v
}

// Delete takes a key out.
func (e *Editor[K, V]) Delete(k K) {
	if _, had := e.m.Get(k); !had {
		return
	}
	e.m.n--
	shard := e.shard(k)
	if delete(shard, k); len(shard) == 0 { // as if nothing had ever been in it: versions are compared
		i := shardOf(hash(k))
		e.m.shards[i], e.own[i] = nil, false
	}
}

// Map is the new version. The Editor is not used any more afterwards.
func (e *Editor[K, V]) Map() Map[K, V] {
	if e.m.n == 0 {
		return Map[K, V]{}
	}
	return e.m
}
