package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Read reads the tables of others that have a base chain which may drop, in the
// network namespace of the calling thread: all but the data planes' own.
// Without nf_tables there are none.
func Read() ([]*Table, error) {
	lib, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open a socket to nf_tables: %w", err)
	}
	defer lib.CloseLasting()
	raw, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open a socket to nf_tables: %w", err)
	}
	defer raw.Close()
	var all []*Table
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyINet} {
		chains, err := lib.ListChainsOfTableFamily(family)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the chains of nftables: %w", err)
		}
		tables := map[string]*Table{}
		for _, c := range chains {
			if tables[c.Table.Name] == nil {
				tables[c.Table.Name] = &Table{Family: familyName(family), Name: c.Table.Name, Chains: map[string]*Chain{}, Sets: map[string]*Set{}}
			}
			tables[c.Table.Name].Chains[c.Name] = chainOf(c)
		}
		for name, t := range tables {
			if family == nftables.TableFamilyIPv4 && name == ownTable || len(t.bases()) == 0 {
				continue
			}
			if err := t.fill(lib, raw, family); err != nil {
				return nil, err
			}
			all = append(all, t)
		}
	}
	return all, nil
}

// ownTable is that of the data plane.
const ownTable = "shoal"

func familyName(f nftables.TableFamily) string {
	if f == nftables.TableFamilyINet {
		return "inet"
	}
	return "ip"
}

func chainOf(c *nftables.Chain) *Chain {
	r := &Chain{Name: c.Name}
	if c.Hooknum == nil || c.Type != nftables.ChainTypeFilter && c.Type != nftables.ChainTypeRoute {
		return r
	}
	switch *c.Hooknum {
	case *nftables.ChainHookInput:
		r.Hook = "input"
	case *nftables.ChainHookForward:
		r.Hook = "forward"
	case *nftables.ChainHookPrerouting:
		r.Hook = "prerouting"
	case *nftables.ChainHookOutput:
		r.Hook = "output"
	case *nftables.ChainHookPostrouting:
		r.Hook = "postrouting"
	}
	if c.Priority != nil {
		r.Priority = int(*c.Priority)
	}
	r.Drops = c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
	return r
}

// bases are the base chains that matter.
func (t *Table) bases() (all []*Chain) {
	for _, c := range t.Chains {
		if c.Hook != "" {
			all = append(all, c)
		}
	}
	return all
}

// fill reads the table's rules and sets.
func (t *Table) fill(lib *nftables.Conn, raw *netlink.Conn, family nftables.TableFamily) error {
	table := &nftables.Table{Name: t.Name, Family: family}
	sets, err := lib.GetSets(table)
	if err != nil {
		return fmt.Errorf("list the sets of the table %s %s: %w", t.Family, t.Name, err)
	}
	for _, s := range sets {
		s.Table = table
		t.Sets[s.Name] = setOf(lib, s)
	}
	// The library leaves out of a rule what it does not know.
	name := []netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(t.Name + "\x00")}}
	attrs, err := netlink.MarshalAttributes(name)
	if err != nil {
		return err
	}
	found, err := raw.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		return fmt.Errorf("list the rules of the table %s %s: %w", t.Family, t.Name, err)
	}
	for _, m := range found {
		if len(m.Data) < 4 {
			continue
		}
		chain, rule, err := ruleOf(byte(family), m.Data[4:])
		if err != nil {
			return fmt.Errorf("read a rule of the table %s %s: %w", t.Family, t.Name, err)
		}
		if c := t.Chains[chain]; c != nil {
			c.Rules = append(c.Rules, rule)
		}
	}
	return nil
}

func setOf(lib *nftables.Conn, s *nftables.Set) *Set {
	r := &Set{Interval: s.Interval}
	elements, err := lib.GetSetElements(s)
	if err != nil {
		r.Unknown = true
		return r
	}
	var ends [][]byte
	for _, e := range elements {
		if e.IntervalEnd {
			ends = append(ends, e.Key)
			continue
		}
		r.Elements = append(r.Elements, Element{Key: e.Key, End: e.KeyEnd, Concat: len(e.KeyEnd) > 0, Verdict: e.VerdictData, Value: e.Val})
	}
	if s.Interval {
		for i := range r.Elements {
			e := &r.Elements[i]
			for _, end := range ends {
				if !e.Concat && bytes.Compare(end, e.Key) > 0 && (len(e.End) == 0 || bytes.Compare(end, e.End) < 0) {
					e.End = end
				}
			}
		}
	}
	return r
}

// ruleOf reads a rule's message.
func ruleOf(family byte, b []byte) (chain string, rule Rule, err error) {
	d, err := decoder(b)
	if err != nil {
		return "", nil, err
	}
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_RULE_CHAIN:
			chain = d.String()
		case unix.NFTA_RULE_EXPRESSIONS:
			d.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					e, err := expressionOf(family, list.Bytes())
					if err != nil {
						return err
					}
					rule = append(rule, e)
				}
				return nil
			})
		}
	}
	return chain, rule, d.Err()
}

func decoder(b []byte) (*netlink.AttributeDecoder, error) {
	d, err := netlink.NewAttributeDecoder(b)
	if err == nil {
		d.ByteOrder = binary.BigEndian
	}
	return d, err
}

// understood are the expressions that a packet can be led by.
var understood = map[string]func() expr.Any{
	"meta":      func() expr.Any { return &expr.Meta{} },
	"payload":   func() expr.Any { return &expr.Payload{} },
	"ct":        func() expr.Any { return &expr.Ct{} },
	"fib":       func() expr.Any { return &expr.Fib{} },
	"immediate": func() expr.Any { return &expr.Immediate{} },
	"bitwise":   func() expr.Any { return &expr.Bitwise{} },
	"cmp":       func() expr.Any { return &expr.Cmp{} },
	"range":     func() expr.Any { return &expr.Range{} },
	"lookup":    func() expr.Any { return &expr.Lookup{} },
	"counter":   func() expr.Any { return &expr.Counter{} },
	"log":       func() expr.Any { return &expr.Log{} },
	"reject":    func() expr.Any { return &expr.Reject{} },
}

// expressionOf reads an expression, nil if it is none that is understood.
func expressionOf(family byte, b []byte) (expr.Any, error) {
	d, err := decoder(b)
	if err != nil {
		return nil, err
	}
	var name string
	var data []byte
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_EXPR_NAME:
			name = d.String()
		case unix.NFTA_EXPR_DATA:
			data = d.Bytes()
		}
	}
	if err := d.Err(); err != nil || understood[name] == nil {
		return nil, err
	}
	e := understood[name]()
	if expr.Unmarshal(family, data, e) != nil {
		return nil, nil
	}
	if i, is := e.(*expr.Immediate); is && i.Register == unix.NFT_REG_VERDICT {
		v := &expr.Verdict{}
		if expr.Unmarshal(family, data, v) != nil {
			return nil, nil
		}
		return v, nil
	}
	return e, nil
}

// Generation is the number of the last change of nftables: as long as it stays,
// so do the rules. It is 0 where that is not known.
func Generation() uint32 {
	raw, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0
	}
	defer raw.Close()
	found, err := raw.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil || len(found) == 0 || len(found[0].Data) < 4 {
		return 0
	}
	d, err := decoder(found[0].Data[4:])
	if err != nil {
		return 0
	}
	for d.Next() {
		if d.Type() == unix.NFTA_GEN_ID {
			return d.Uint32()
		}
	}
	return 0
}
