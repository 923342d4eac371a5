package ipvs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/internal/statefile"
	"shoal/kernel"
	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
	"shoal/kernel/rules"
	"shoal/kernel/sysctl"
	"shoal/model"
)

// routeProtocol marks the route as ours ("proto 83" in ip route).
const routeProtocol = 83

// foundation keeps what all services stand on: parameters, timeouts, rules and
// the route. A part that fails is a problem by itself.
func (b *Balancer) foundation(ctx context.Context, now time.Time) {
	part := func(name string, err error) { b.failing.put(object{part: name}, err, now) }

	part("br_netfilter", kernel.Need(ctx, bridgeParam, "br_netfilter"))
	for _, p := range params {
		part("sysctl "+p.name, b.params.Set(p.name, p.value))
	}
	part("IPVS timeouts", b.timeouts())

	wrong, err := rules.Keep(ctx, b.chains())
	if len(wrong) > 0 {
		b.log.Info("iptables rules written", "why", rules.Brief(wrong))
	}
	part("iptables", err)
	if err != nil {
		return // without rules, the route would open every listener of the host
	}
	part("route", b.route())
}

// timeouts sets IPVS's idle timeouts where they differ, after keeping what
// they were.
func (b *Balancer) timeouts() error {
	have, err := b.table.IPVS.Timeouts()
	if err != nil || have == b.opts.Timeouts {
		return err
	}
	file := timeoutsFile(b.opts.StateDir)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if err := statefile.Save(file, have); err != nil {
			return err
		}
	}
	return b.table.IPVS.SetTimeouts(b.opts.Timeouts)
}

// route makes every address of the pool local to this host. With it the host's
// own processes talk to a VIP from the host's address; without the src they
// would from the VIP.
func (b *Balancer) route() error {
	want, err := poolRoute(b.opts.Pool, b.snap.Self.Addr)
	if err != nil {
		return err
	}
	have, err := lookup(b.opts.Pool)
	if err != nil {
		return err
	}
	if have != nil && have.Type == want.Type && have.Dst != nil && have.Dst.String() == want.Dst.String() && have.Src.Equal(want.Src) {
		return nil
	}
	kernel.Wrote("route", 1)
	if err := netlink.RouteReplace(want); err != nil {
		if errors.Is(err, unix.EINVAL) && want.Src != nil {
			return fmt.Errorf("add the route local %s src %s: %w: is that address one of this host?", b.opts.Pool, b.snap.Self.Addr, err)
		}
		return fmt.Errorf("add the route local %s: %w", b.opts.Pool, err)
	}
	return nil
}

func poolRoute(pool netip.Prefix, src netip.Addr) (*netlink.Route, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find the device lo: %w", err)
	}
	r := &netlink.Route{
		LinkIndex: lo.Attrs().Index,
		Dst:       &net.IPNet{IP: pool.Addr().AsSlice(), Mask: net.CIDRMask(pool.Bits(), 32)},
		Type:      unix.RTN_LOCAL,
		Table:     unix.RT_TABLE_LOCAL,
		Scope:     netlink.SCOPE_HOST,
		Protocol:  routeProtocol,
	}
	if src.Is4() {
		r.Src = src.AsSlice()
	}
	return r, nil
}

// lookup asks the kernel for the route that it would take to the pool; nil:
// none. One answer, where a dump could be a million routes.
func lookup(pool netip.Prefix) (*netlink.Route, error) {
	found, err := netlink.RouteGetWithOptions(pool.Addr().AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look up the route to %s: %w", pool, err)
	case len(found) == 0:
		return nil, nil
	}
	return &found[0], nil
}

// Down takes everything away that any Balancer with these options made in the
// network namespace of the calling thread, and puts the kernel's parameters
// back. Nothing of ours there is not an error; connections through VIPs end.
func Down(ctx context.Context, opts Options) error {
	var errs []error
	do := func(err error) { errs = append(errs, err) }

	// The route first: without rules it would open every listener of the host.
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4,
		&netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: routeProtocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	do(err)
	for _, r := range routes {
		kernel.Wrote("route", 1)
		if err := netlink.RouteDel(&r); err != nil {
			do(fmt.Errorf("delete the route %s: %w", r.Dst, err))
		}
	}
	var names []string
	for _, c := range chains(Options{}, model.Node{}, true) {
		names = append(names, c.Name)
	}
	do(rules.Remove(ctx, names...))

	if ipvs.Loaded() {
		do(downIPVS(ctx, timeoutsFile(opts.StateDir)))
	}
	for _, s := range slices.Backward(sets) {
		do(ipset.Destroy(s.Name))
	}
	do(downHairpin(portsFile(opts.StateDir)))
	do(sysctl.New(paramsFile(opts.StateDir)).Restore())
	return errors.Join(errs...)
}

func downIPVS(ctx context.Context, file string) error {
	h, err := ipvs.New(ctx)
	if err != nil {
		return err
	}
	defer h.Close()
	table, err := h.Table()
	if err != nil {
		return err
	}
	var errs []error
	for mark := range table {
		if ours(mark) {
			errs = append(errs, h.Delete(mark))
		}
	}
	var old ipvs.Timeouts
	found, err := statefile.Load(file, &old)
	if !found {
		return errors.Join(errs...)
	}
	if err == nil {
		err = h.SetTimeouts(old)
	}
	if err == nil {
		err = os.Remove(file)
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("put the IPVS timeouts of %s back: %w", file, err))
	}
	return errors.Join(errs...)
}
