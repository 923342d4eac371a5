package model

import (
	"cmp"
	"iter"
	"slices"
	"strings"
)

// Containers are those of a cluster, by node, then ID. They are immutable; versions
// share the containers of hosts where nothing changed, so that a change copies those
// of one host, and a list of hosts. The zero value is empty.
type Containers struct {
	hosts []hostContainers // by node
	n     int
}

type hostContainers struct {
	node string
	all  []*Container // by ID; not empty
}

// ContainersOf are these containers, in any order. Each has a node and an ID.
func ContainersOf(all ...*Container) Containers {
	byNode := map[string][]*Container{}
	for _, c := range all {
		byNode[c.Node] = append(byNode[c.Node], c)
	}
	cs := Containers{n: len(all)}
	for node, all := range byNode {
		slices.SortFunc(all, func(a, b *Container) int { return strings.Compare(a.ID, b.ID) })
		cs.hosts = append(cs.hosts, hostContainers{node, all})
	}
	slices.SortFunc(cs.hosts, func(a, b hostContainers) int { return strings.Compare(a.node, b.node) })
	return cs
}

// Len is how many there are.
func (cs Containers) Len() int { return cs.n }

// All are all of them, in order.
func (cs Containers) All() iter.Seq[*Container] {
	return func(yield func(*Container) bool) {
		for _, h := range cs.hosts {
			for _, c := range h.all {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// Of are those of a host, by ID. The caller must not change them.
func (cs Containers) Of(node string) []*Container {
	if i, found := cs.host(node); found {
		return cs.hosts[i].all
	}
	return nil
}

// Find finds one; nil: it is not there.
func (cs Containers) Find(node, id string) *Container {
	all := cs.Of(node)
	if i, found := slices.BinarySearchFunc(all, id, func(c *Container, id string) int { return strings.Compare(c.ID, id) }); found {
		return all[i]
	}
	return nil
}

func (cs Containers) host(node string) (i int, found bool) {
	return slices.BinarySearchFunc(cs.hosts, node, func(h hostContainers, node string) int { return strings.Compare(h.node, node) })
}

// ContainerKey names a container.
type ContainerKey struct{ Node, ID string }

// Compare orders by node, then ID.
func (k ContainerKey) Compare(o ContainerKey) int {
	return cmp.Or(strings.Compare(k.Node, o.Node), strings.Compare(k.ID, o.ID))
}

// With is a version in which the containers of these keys, which are in order, are
// what value says they are now, or not there (nil). One that is equal to what it was
// stays that. It tells whether anything differs.
func (cs Containers) With(keys []ContainerKey, value func(ContainerKey) *Container) (with Containers, differs bool) {
	with = cs
	for len(keys) > 0 {
		n := slices.IndexFunc(keys, func(k ContainerKey) bool { return k.Node != keys[0].Node })
		if n < 0 {
			n = len(keys)
		}
		node := keys[0].Node
		old := cs.Of(node)
		all, differ := Merge(old, keys[:n], func(c *Container, k ContainerKey) int { return strings.Compare(c.ID, k.ID) }, value, (*Container).Equal)
		keys = keys[n:]
		if !differ {
			continue
		}
		if !differs {
			differs, with.hosts = true, slices.Clone(cs.hosts)
		}
		with.n += len(all) - len(old)
		switch i, found := with.host(node); {
		case found && len(all) == 0:
			with.hosts = slices.Delete(with.hosts, i, i+1)
		case found:
			with.hosts[i].all = all
		default:
			with.hosts = slices.Insert(with.hosts, i, hostContainers{node, all})
		}
	}
	return with, differs
}

// Merge makes a new sorted slice of a sorted one, in which the elements of the
// given keys, sorted too, are what value says they are now, or not there (nil). What
// is equal stays the one it was. It tells whether the two slices differ.
func Merge[T, K any](old []*T, keys []K, compare func(*T, K) int, value func(K) *T, equal func(a, b *T) bool) (merged []*T, differ bool) {
	merged = make([]*T, 0, len(old)+len(keys))
	for _, k := range keys {
		i, found := slices.BinarySearchFunc(old, k, compare)
		merged = append(merged, old[:i]...)
		old = old[i:]
		v := value(k)
		if found {
			if v != nil && equal(old[0], v) {
				v = old[0]
			}
			differ = differ || v != old[0]
			old = old[1:]
		}
		if v != nil {
			differ = differ || !found
			merged = append(merged, v)
		}
	}
	return append(merged, old...), differ
}
