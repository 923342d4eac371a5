package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Pools are the networks that hosts' subnets are cut from, in order: the first is
// used up before the next. One that is full grows by a further one at the end, on
// all hosts; those before it must stay as they are, since a host's number counts
// from the first on.
type Pools []netip.Prefix

// ParsePools reads networks with commas between them.
func ParsePools(text string) (ps Pools, err error) {
	for part := range strings.SplitSeq(text, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		ps = append(ps, p)
	}
	return ps, nil
}

// UnmarshalText is [ParsePools].
func (ps *Pools) UnmarshalText(text []byte) error {
	parsed, err := ParsePools(string(text))
	if err == nil {
		*ps = parsed
	}
	return err
}

// MarshalText writes what [ParsePools] reads.
func (ps Pools) MarshalText() ([]byte, error) { return []byte(ps.String()), nil }

func (ps Pools) String() string {
	var words []string
	for _, p := range ps {
		words = append(words, p.String())
	}
	return strings.Join(words, ",")
}

// Check tells whether subnets of so many bits can be cut from all of them; they are
// IPv4 or IPv6, without host bits, and do not overlap each other.
func (ps Pools) Check(bits int) error {
	for i, p := range ps {
		switch {
		case !p.IsValid() || p != p.Masked():
			return fmt.Errorf("%s has host bits: use %s", p, p.Masked())
		case bits < p.Bits() || bits > p.Addr().BitLen() || bits-p.Bits() > 32:
			return fmt.Errorf("%s cannot be cut into subnets of %d bits; use a pool like 10.244.0.0/16 and 24 bits", p, bits)
		case ps[:i].Overlaps(p):
			return fmt.Errorf("%s overlaps another of the pools %s", p, ps)
		}
	}
	return nil
}

// Overlaps tells whether any of them overlaps a network.
func (ps Pools) Overlaps(p netip.Prefix) bool { return slices.ContainsFunc(ps, p.Overlaps) }

// Has tells whether a network is part of one of them; the whole of one is.
func (ps Pools) Has(p netip.Prefix) bool {
	return slices.ContainsFunc(ps, func(pool netip.Prefix) bool { return pool.Contains(p.Addr()) && pool.Bits() <= p.Bits() })
}

// Count is how many subnets of so many bits they have, most at the most.
func (ps Pools) Count(bits int, most uint64) (n uint64) {
	for _, p := range ps {
		n = min(n+uint64(1)<<(bits-p.Bits()), most)
	}
	return n
}

// Subnet is number n of their subnets of so many bits, from 0. There must be one.
func (ps Pools) Subnet(bits int, n uint64) netip.Prefix {
	i := 0
	for ; n >= uint64(1)<<(bits-ps[i].Bits()); i++ {
		n -= uint64(1) << (bits - ps[i].Bits())
	}
	b := ps[i].Addr().AsSlice()
	for bit := bits - 1; n > 0; bit, n = bit-1, n>>1 {
		if n&1 == 1 {
			b[bit/8] |= 0x80 >> (bit % 8)
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, bits)
}
