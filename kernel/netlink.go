package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Dump repeats a listing by netlink for as long as a change of what is listed
// interrupts it (NLM_F_DUMP_INTR), ten times at most.
func Dump[T any](list func() ([]T, error)) (found []T, err error) {
	for range 10 {
		if found, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return found, err
}

// Routes are the IPv4 routes of a table; of 0 (RT_TABLE_UNSPEC), those of all tables.
func Routes(table int) ([]netlink.Route, error) {
	routes, err := Dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return routes, nil
}

// RouteTo asks the kernel for the route that it would take to an address, for
// packets with a mark if that is not 0; nil: none, or one that refuses. It is
// one answer, where a listing could be a million routes.
func RouteTo(to netip.Addr, mark uint32) (*netlink.Route, error) {
	found, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true, Mark: mark})
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH),
		errors.Is(err, unix.EINVAL), errors.Is(err, unix.EACCES): // to a black hole, or prohibited
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look up the route to %s: %w", to, err)
	case len(found) == 0:
		return nil, nil
	}
	return &found[0], nil
}
