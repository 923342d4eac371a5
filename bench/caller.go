package bench

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// caller makes requests from a network namespace, all on one thread.
type caller struct {
	*bench
	*thread
	ns    string
	spare netip.Addr // the next address for a path; invalid: there is only its own
	paths map[netip.AddrPort]path
}

func (b *bench) newCaller(ns string, spare netip.Addr) *caller {
	return &caller{b, b.enter(ns), ns, spare, map[netip.AddrPort]path{}}
}

// path is the way from the caller to a port, with an address of its own where
// there are some to spare.
func (c *caller) path(to netip.Addr, port uint16) path {
	at := netip.AddrPortFrom(to, port)
	p, ok := c.paths[at]
	if !ok {
		p = c.another(to, port)
		c.paths[at] = p
	}
	return p
}

// another is path, with an address that no other has.
func (c *caller) another(to netip.Addr, port uint16) path {
	p := path{c, c.spare, netip.AddrPortFrom(to, port)}
	if c.spare.IsValid() {
		c.spare = c.spare.Next()
		c.must("give the client an address", c.do(func() error {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.AddrAdd(eth0, &netlink.Addr{IPNet: netlink.NewIPNet(p.from.AsSlice())})
		}))
	}
	return p
}
