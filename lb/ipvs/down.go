package ipvs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/vishvananda/netlink"

	"shoal/internal/statefile"
	"shoal/kernel"
	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
	"shoal/kernel/rules"
	"shoal/kernel/sysctl"
	"shoal/lb"
	"shoal/lb/host"
)

// Down takes away what any Plane with these options made in the network
// namespace of the calling thread, the sandbox with it. Nothing of that there is
// not an error; connections through VIPs and published ports end. What is the
// host's stays: another plane may be using it, else see [host.Down].
func Down(ctx context.Context, opts Options) error {
	opts.fill()
	var errs []error
	do := func(err error) { errs = append(errs, err) }

	var names []string
	for _, c := range slices.Concat(hostChains(&opts, new(lb.Base)), betweenChains(&lb.Between{})) {
		names = append(names, c.Name)
	}
	if err := rules.Remove(ctx, names...); !errors.Is(err, exec.ErrNotFound) { // without iptables there are none
		do(err)
	}
	do(downLink())
	do(removeNamespace(opts.Netns))
	do(dropReturn())
	if ipvs.Loaded() {
		do(downIPVS(ctx, opts.timeoutsFile()))
	}
	// Of a set that is not there Linux 6 says that it was removed, which counts
	// as a write.
	if sets, err := ipset.Names(); err == nil {
		for _, s := range slices.Backward(slices.Concat(hostSets, betweenSets)) {
			if slices.Contains(sets, s.Name) {
				do(ipset.Destroy(s.Name))
			}
		}
	}
	for _, name := range slices.Concat(paramNames(ipvsParams), []string{sysctl.IPv4(hostDev, "route_localnet"), sysctl.IPv4(hostDev, "rp_filter")}) {
		do(host.Sysctls(opts.StateDir).PutBack(name))
	}
	if err := os.Remove(opts.sandboxParamsFile()); !errors.Is(err, os.ErrNotExist) {
		do(err)
	}
	return errors.Join(errs...)
}

func paramNames(ps []param) (names []string) {
	for _, p := range ps {
		names = append(names, p.name)
	}
	return names
}

// downLink removes the link to the sandbox, and what the host remembers of
// connections that went there, and came from there. A plane that does without a
// sandbox rewrites destinations here; its connections stay.
func downLink() error {
	link, err := netlink.LinkByName(hostDev)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the device %s: %w", hostDev, err)
	}
	kernel.Wrote("link", 1)
	if err := netlink.LinkDel(link); err != nil {
		return fmt.Errorf("delete the device %s: %w", hostDev, err)
	}
	return deleteConnections(func(f *netlink.ConntrackFlow) bool {
		return f.Reverse.SrcIP.Equal(sandboxAddr.AsSlice()) || f.Mark&lb.MarkMask == lb.ConnMark && f.Reverse.SrcIP.Equal(f.Forward.DstIP)
	})
}

// downIPVS removes the VIPs' virtual services, and puts the timeouts back.
func downIPVS(ctx context.Context, file string) error {
	h, err := ipvs.New(ctx)
	if err != nil {
		return err
	}
	defer h.Close()
	table, _, err := h.Services()
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
