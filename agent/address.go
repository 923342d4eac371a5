package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"shoal/diagnose"
	"shoal/kernel/watch"
	"shoal/model"
)

// It is seen whether the host still has its address when the kernel tells that
// one goes, and seldom besides; while it has not, after each second.
const (
	lookSeldom = 30 * time.Second
	lookAgain  = time.Second
)

// movedLooks is how many looks in a row have to find the same other address. A
// DHCP client takes the old one away, and the routes with it, before it brings
// the new one, and a host may have its old one back in a moment.
const movedLooks = 3

// movedError ends a run of the agent on a host that has another address by now.
type movedError struct {
	to        netip.Addr
	byDefault bool // it is that of the default route
}

func (e *movedError) Error() string { return "this host's address is " + e.to.String() + " by now" }

// addrWatch watches the address that a run of the agent goes by.
type addrWatch struct {
	own       netip.Addr
	set       bool // by --advertise: no other will do
	byDefault bool // it is that of the default route

	other netip.Addr // that the last look found in its place; zero: none
	looks int        // in a row that found that one
}

// newAddrWatch finds out the address of this host and puts it in the settings,
// if they do not name one.
func newAddrWatch(c *Config) (*addrWatch, error) {
	if c.Advertise.IsValid() {
		return &addrWatch{own: c.Advertise, set: true}, nil
	}
	addr, byDefault, err := hostAddr()
	if err != nil {
		return nil, err
	}
	c.Advertise = addr
	return &addrWatch{own: addr, byDefault: byDefault}, nil
}

// look takes in what a look found: whether the host has its address, and which
// one it would be given now; zero: none. It tells whether the host has moved
// there. Of a host that had a default route, an address beside that says
// nothing: the route is still to come.
func (w *addrWatch) look(here bool, other netip.Addr, byDefault bool) (moved bool) {
	if here || w.set || !other.IsValid() || w.byDefault && !byDefault {
		w.other, w.looks = netip.Addr{}, 0
		return false
	}
	if other != w.other {
		w.other, w.looks = other, 0
	}
	w.looks++
	return w.looks >= movedLooks
}

// missing says what is wrong while the host does not have its address.
func (w *addrWatch) missing() string {
	if w.set {
		return fmt.Sprintf("the address %s, which --advertise names, is not one of this host's any more, so other hosts do not reach it: "+
			"give it back to the host, or start the agent with the address it has now, or without --advertise", w.own)
	}
	return fmt.Sprintf("the address %s is not one of this host's any more, so other hosts do not reach it; once it has another one, by its default route, the agent goes on with that", w.own)
}

// watch reports while the host does not have its address. It ends with a
// [movedError] once it has another.
func (w *addrWatch) watch(ctx context.Context, node string, problems *diagnose.Problems) error {
	changed, err := watch.Start(ctx, watch.Interest{Addresses: true})
	if err != nil {
		return err
	}
	for pause := time.Duration(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(pause):
		}
		here, err := hasAddr(w.own)
		if err != nil {
			pause = lookAgain
			continue // the kernel is busy: the next look tells
		}
		if here {
			pause = lookSeldom
			w.look(true, netip.Addr{}, false)
			problems.Set("address", nil)
			continue
		}
		pause = lookAgain
		problems.Set("address", []model.Problem{{Code: model.AddressMissing, Kind: "node", Object: node, Reason: w.missing()}})
		// An error says that there is none.
		if other, byDefault, _ := hostAddr(); w.look(false, other, byDefault) {
			return &movedError{other, byDefault}
		}
	}
}

// hasAddr tells whether a device of this host has the address.
func hasAddr(a netip.Addr) (bool, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("list this host's addresses: %w", err)
	}
	for _, has := range all {
		if n, ok := has.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a {
				return true, nil
			}
		}
	}
	return false, nil
}
