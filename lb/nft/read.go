package nft

import (
	"errors"

	"shoal/kernel"
	"shoal/lb"
)

// errOtherVersion says that the table is not as this version makes it. It carries connections
// all the same: it stays until what takes its place is known.
var errOtherVersion = errors.New("the table shoal is of another version")

// read lists all that the kernel has of the table but clients' affinity. What is
// known of frontends is then who has which balancer, by [state.pool].
func (p *Plane) read() (found *listing, err error) {
	p.mon.forgive()
	gen, err := p.c.generation()
	if err != nil {
		return nil, err
	}
	s, err := readStructure(p.c, p.lib)
	if err != nil {
		return nil, err
	}
	if s.table && !s.sound() {
		if !p.begun {
			return nil, errOtherVersion
		}
		p.log.Info("the table shoal is of another version: made anew")
		p.lib.DelTable(table)
		kernel.Wrote("nftables", 1)
		if err := p.lib.Flush(); err != nil {
			return nil, err
		}
		return p.read()
	}
	p.remember()
	p.have = state{generation: gen, structure: s, pool: newPool(), taken: map[string]bool{}}
	p.have.pool.former = p.former.numbers
	found = &listing{entries: entries{}, packets: map[string]uint64{}, balancers: map[string]balancer{}}
	for _, each := range sets {
		if s.sets[each.name] == nil || each == affinity {
			continue
		}
		es := map[string]string{}
		found.entries[each] = es
		err := p.c.list(each, func(e entry) {
			if es[e.key] = e.value; e.packets > 0 {
				found.packets[e.key] = e.packets
			}
		})
		if err != nil {
			return nil, err
		}
	}
	byNumber := map[string]balancer{}
	for n, chain := range found.entries[balancers] {
		if b, ok := parseBalancer(chain); ok {
			byNumber[n] = b
			p.have.pool.adopt(b, readNumber(n))
		}
	}
	for k, n := range found.entries[services] {
		if b, has := byNumber[n]; has {
			found.balancers[k] = b
		}
		if a, _, _ := readKey(k); !p.opts.Pool.Contains(a) {
			p.have.taken[k] = true
		}
	}
	return found, nil
}

// former is what frontends had before the kernel was read anew. What others have
// taken away is made as it was.
type former struct {
	balancers map[lb.Key]balancer
	numbers   map[balancer]uint16
}

func (p *Plane) remember() {
	if p.have.pool == nil || len(p.have.frontends) == 0 {
		return
	}
	p.former = former{map[lb.Key]balancer{}, p.have.pool.numbers}
	for k, f := range p.have.frontends {
		p.former.balancers[k] = f.balancer
	}
}

// listing is what the kernel's sets hold.
type listing struct {
	entries   entries
	packets   map[string]uint64   // service -> packets counted
	balancers map[string]balancer // by service
}

// found is the balancer that a frontend has in the kernel, or else had.
func (p *Plane) found(l *listing, k lb.Key) (b balancer, has bool) {
	f := p.frontends[k]
	if l == nil || f == nil {
		return b, false
	}
	if b, has = l.balancers[string((&frontend{Frontend: f}).services()[0])]; !has {
		b, has = p.former.balancers[k]
	}
	return b, has
}
