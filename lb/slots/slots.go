package slots

import (
	"cmp"
	"hash/fnv"
	"slices"

	"shoal/lb"
)

// maxSlots bounds what weights ask for: beyond, they are met by and large.
const maxSlots = 1024

// Has tells whether slots can do what the scheduler promises.
func Has(scheduler string) bool {
	switch scheduler {
	case "rr", "wrr", "fo", "sh", "mh", "dh":
		return true
	}
	return false
}

// Fill gives the indices of the backends that a frontend's slots lead to; none
// if no backend has a weight above 0. The same backends have the same slots. A
// scheduler that slots do not have is filled as wrr.
func Fill(scheduler string, bs []lb.Backend) []int {
	var live []int
	for i, b := range bs {
		if b.Weight > 0 {
			live = append(live, i)
		}
	}
	if len(live) < 2 {
		return live
	}
	weight := func(i int) int { return bs[i].Weight }
	switch scheduler {
	case "fo":
		return []int{slices.MaxFunc(live, func(a, b int) int { return cmp.Or(cmp.Compare(weight(a), weight(b)), cmp.Compare(b, a)) })}
	case "sh", "mh", "dh":
		return maglev(live, bs)
	case "rr":
		return live
	}
	return spread(live, shares(live, weight))
}

// shares are the weights, divided by what they have in common, and at most
// maxSlots together as far as each can have one.
func shares(live []int, weight func(int) int) []int {
	sum, common := 0, 0
	for _, i := range live {
		sum += weight(i)
		common = divisor(common, weight(i))
	}
	out := make([]int, len(live))
	for k, i := range live {
		if out[k] = weight(i) / common; sum/common > maxSlots {
			out[k] = max(1, weight(i)*maxSlots/sum)
		}
	}
	return out
}

// divisor is the greatest common one.
func divisor(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// spread gives each its share of slots, as evenly between those of others as
// can be: each time the one that is owed most is next.
func spread(live, shares []int) (slots []int) {
	total := 0
	for _, s := range shares {
		total += s
	}
	owed := make([]int, len(live))
	for range total {
		next := 0
		for k := range owed {
			if owed[k] += shares[k]; owed[k] > owed[next] {
				next = k
			}
		}
		owed[next] -= total
		slots = append(slots, live[next])
	}
	return slots
}

// maglevSizes are the sizes of tables for hashing: primes, so that every
// backend's order of preference has every slot. The first that has fifty
// times as many slots as there are backends is used, else the last.
var maglevSizes = []int{251, 1021, 4093}

// maglev fills a table so that a backend that comes or goes moves few of the
// slots of others (Eisenbud et al., Maglev, NSDI 2016, section 3.4). A backend
// has slots by its weight.
func maglev(live []int, bs []lb.Backend) []int {
	size := maglevSizes[len(maglevSizes)-1]
	for _, s := range maglevSizes {
		if s >= 50*len(live) {
			size = s
			break
		}
	}
	type backend struct {
		next, step, credit int
	}
	heaviest := 0
	ps := make([]backend, len(live))
	for k, i := range live {
		h := fnv.New64a()
		key, _ := bs[i].Addr.MarshalBinary()
		h.Write(key)
		sum := mix(h.Sum64())
		ps[k] = backend{next: int(sum>>32) % size, step: int(sum&0xffffffff)%(size-1) + 1}
		heaviest = max(heaviest, bs[i].Weight)
	}
	table := make([]int, size)
	for i := range table {
		table[i] = -1
	}
	for filled := 0; ; {
		for k := range ps {
			p := &ps[k]
			// In a round each has a turn, or as much of one as its weight is of the
			// heaviest.
			if p.credit += bs[live[k]].Weight; p.credit < heaviest {
				continue
			}
			p.credit -= heaviest
			for table[p.next] >= 0 {
				p.next = (p.next + p.step) % size
			}
			table[p.next] = live[k]
			if filled++; filled == size {
				return table
			}
		}
	}
}

// mix makes every bit depend on every other (the finalizer of splitmix64).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
