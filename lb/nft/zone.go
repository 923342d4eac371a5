package nft

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A client may talk to several hosts from one and the same port of its own: nothing
// keeps it from that, and a balancer in front of the hosts does it all the time. Behind
// the published ports these are connections from one address and port to one task, and
// nothing in their packets tells them apart but the host that they came by. So their
// requests are put into a conntrack zone of that host (nft(8), ct zone). Only their
// original direction is: their replies are known by their addresses alone, and so the
// kernel has to give one of two such connections another port of the client's, which
// only the task sees.

// setZone puts a packet, which is not tracked yet, into the zone that a register has, if
// it begins or continues a connection in its original direction.
func setZone(reg uint32) does {
	return does{&zoneOf{&expr.Ct{Key: expr.CtKeyZONE, Register: reg, SourceRegister: true}, reg}}
}

// zoneOf is an expression that the library cannot write: it has no direction where
// something is set.
type zoneOf struct {
	expr.Any
	reg uint32
}

// marshal writes an expression.
func marshal(e expr.Any) ([]byte, error) {
	z, ours := e.(*zoneOf)
	if !ours {
		return expr.Marshal(byte(table.Family), e)
	}
	return nested(attr(nil, unix.NFTA_EXPR_NAME, []byte("ct\x00")), unix.NFTA_EXPR_DATA, func(b []byte) []byte {
		b = attr(b, unix.NFTA_CT_KEY, be32(uint32(expr.CtKeyZONE)))
		b = attr(b, unix.NFTA_CT_SREG, be32(z.reg))
		return attr(b, unix.NFTA_CT_DIRECTION, []byte{0}) // IP_CT_DIR_ORIGINAL
	}), nil
}

// ours tells whether the rule has something that the library cannot write. All rules of
// its chain do, then.
func (r rule) ours() bool {
	for _, e := range r.exprs {
		if _, is := e.(*zoneOf); is {
			return true
		}
	}
	return false
}

// chained is a rule of a chain.
type chained struct {
	rule
	chain string
}

// add adds rules at the end of their chains, all or none.
func (c *conn) add(rules []chained) error {
	var ms []netlink.Message
	for _, r := range rules {
		b := attr(message(nil), unix.NFTA_RULE_TABLE, []byte(tableName+"\x00"))
		b = attr(b, unix.NFTA_RULE_CHAIN, []byte(r.chain+"\x00"))
		var failed error
		b = nested(b, unix.NFTA_RULE_EXPRESSIONS, func(b []byte) []byte {
			for _, e := range r.exprs {
				one, err := marshal(e)
				failed = errors.Join(failed, err)
				b = nested(b, unix.NFTA_LIST_ELEM, func(b []byte) []byte { return append(b, one...) })
			}
			return b
		})
		if failed != nil {
			return failed
		}
		b = attr(b, unix.NFTA_RULE_USERDATA, r.in(r.chain).UserData)
		ms = append(ms, netlink.Message{Header: header(unix.NFT_MSG_NEWRULE, netlink.Request|netlink.Create|unix.NLM_F_APPEND), Data: b})
	}
	return c.transaction(ms, 0)
}

// hasZones tells whether the kernel has conntrack zones (CONFIG_NF_CONNTRACK_ZONES, which
// every distribution's has).
var hasZones = sync.OnceValue(func() bool {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends, and the namespace with it
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace: %w", err)
			}
			l, _, err := library()
			if err != nil {
				return err
			}
			defer l.CloseLasting()
			l.AddTable(table)
			one := chain{name: "zone", rules: []rule{on("try", value(r0, be16(1)), setZone(r0))}}
			b := builder{lib: l, trial: true}
			b.put(&structure{chains: map[string]*builtChain{}}, []chain{one})
			return b.flush()
		}()
	}()
	return <-result == nil
})
