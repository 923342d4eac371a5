package nft

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"

	"shoal/kernel"
)

// structure is the table, its sets and its chains: what entries stand in.
type structure struct {
	table  bool
	sets   map[string]*nftables.Set
	chains map[string]*builtChain
}

// builtChain is a chain as the kernel has it.
type builtChain struct {
	*nftables.Chain
	comments []string // of its rules
}

// is tells whether the kernel's chain is that one.
func (b *builtChain) is(c *chain) bool {
	if b == nil || (b.Hooknum == nil) != (c.hook == nil) {
		return false
	}
	if c.hook != nil && (*b.Hooknum != *c.hook || b.Type != c.kind || int32(*b.Priority) != c.priority) {
		return false
	}
	return slices.Equal(b.comments, c.comments())
}

// library opens the library's socket, and tells its port.
func library() (l *nftables.Conn, port uint32, err error) {
	l, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) (err error) {
		port, err = prepare(c)
		return err
	}))
	if err != nil {
		return nil, 0, fmt.Errorf("open a socket to nf_tables: %w", err)
	}
	return l, port, nil
}

// readStructure lists the table's sets, chains and rules.
func readStructure(c *conn, l *nftables.Conn) (s structure, err error) {
	s = structure{sets: map[string]*nftables.Set{}, chains: map[string]*builtChain{}}
	if _, err := l.ListTable(tableName); errors.Is(err, os.ErrNotExist) {
		return s, nil
	} else if err != nil {
		return s, fmt.Errorf("find the table %s: %w", tableName, err)
	}
	s.table = true
	found, err := l.GetSets(table)
	if err != nil {
		return s, fmt.Errorf("list the sets of the table %s: %w", tableName, err)
	}
	for _, f := range found {
		s.sets[f.Name] = f
	}
	all, err := l.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return s, fmt.Errorf("list the chains of the table %s: %w", tableName, err)
	}
	comments, err := c.comments()
	if err != nil {
		return s, err
	}
	for _, f := range all {
		if f.Table != nil && f.Table.Name == tableName {
			s.chains[f.Name] = &builtChain{f, comments[f.Name]}
		}
	}
	return s, nil
}

// sound tells whether every set there is is one of ours: another version of the
// program may have had others.
func (s *structure) sound() bool {
	for name, have := range s.sets {
		if want := setNamed[name]; want == nil || !want.same(have) {
			return false
		}
	}
	return true
}

// builder gathers writes to the structure.
type builder struct {
	lib    *nftables.Conn
	trial  bool // in a namespace that is thrown away: not counted
	writes int
	own    []chained // rules that the library cannot write, in a transaction of their own
	done   []func()  // what is known of the kernel then
}

// flush does the writes, all or none.
func (b *builder) flush() error {
	if b.writes == 0 {
		return nil
	}
	if !b.trial {
		kernel.Wrote("nftables", b.writes)
	}
	err := b.lib.Flush()
	if err == nil && len(b.own) > 0 {
		var c *conn
		if c, err = open(); err == nil {
			err = c.add(b.own)
			c.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("write the chains of the table %s: %w", tableName, err)
	}
	for _, f := range b.done {
		f()
	}
	b.writes, b.own, b.done = 0, nil, nil
	return nil
}

// frame makes the table and the sets that are missing.
func (b *builder) frame(s *structure) error {
	if !s.table {
		b.lib.AddTable(table)
		b.writes++
		b.done = append(b.done, func() { s.table = true })
	}
	for _, want := range sets {
		if s.sets[want.name] != nil {
			continue
		}
		d := want.definition()
		if err := b.lib.AddSet(d, nil); err != nil {
			return fmt.Errorf("make the set %s: %w", want.name, err)
		}
		b.writes++
		b.done = append(b.done, func() { s.sets[d.Name] = d })
	}
	return nil
}

// put makes chains as they are to be: first all of them, then their rules, as
// they jump to each other.
func (b *builder) put(s *structure, chains []chain) {
	var changed []chain
	for _, c := range chains {
		have := s.chains[c.name]
		if have.is(&c) {
			continue
		}
		changed = append(changed, c)
		d := &nftables.Chain{Name: c.name, Table: table}
		if c.hook != nil {
			policy := nftables.ChainPolicyAccept
			d.Hooknum, d.Type, d.Priority, d.Policy = c.hook, c.kind, nftables.ChainPriorityRef(nftables.ChainPriority(c.priority)), &policy
		}
		if have != nil && c.hook != nil && (have.Hooknum == nil || *have.Hooknum != *c.hook || have.Type != c.kind || int32(*have.Priority) != c.priority) {
			b.lib.FlushChain(d)
			b.lib.DelChain(d)
			have = nil
			b.writes += 2
		}
		if have == nil {
			b.lib.AddChain(d)
		} else {
			b.lib.FlushChain(d)
		}
		b.writes++
		b.done = append(b.done, func() { s.chains[c.name] = &builtChain{d, c.comments()} })
	}
	for _, c := range changed {
		for _, r := range c.rules {
			if b.writes++; r.ours() {
				b.own = append(b.own, chained{r, c.name})
			} else {
				b.lib.AddRule(r.in(c.name))
			}
		}
	}
}

// remove takes chains away that nothing leads to.
func (b *builder) remove(s *structure, names []string) {
	for _, n := range names {
		c := &nftables.Chain{Name: n, Table: table}
		b.lib.FlushChain(c)
		b.lib.DelChain(c)
		b.writes += 2
		b.done = append(b.done, func() { delete(s.chains, n) })
	}
}
