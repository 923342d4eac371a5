package ingress

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"

	"shoal/kernel"
	"shoal/kernel/ipset"
	"shoal/kernel/rules"
	"shoal/kernel/sysctl"
)

// Down takes everything away that any Ingress with these options made in the
// network namespace of the calling thread, the sandbox with it, and puts the
// kernel's parameters back. Nothing of ours there is not an error; connections
// through published ports end.
func Down(ctx context.Context, opts Options) error {
	opts.fill()
	var errs []error
	do := func(err error) { errs = append(errs, err) }

	var names []string
	for _, c := range hostChains(netip.MustParsePrefix("10.96.0.0/16"), new(base)) {
		names = append(names, c.Name)
	}
	do(rules.Remove(ctx, names...))
	do(downLink())
	do(removeNamespace(opts.Netns))
	have, err := ourRules()
	do(err)
	for _, r := range have {
		do(dropRule(r))
	}
	for _, s := range slices.Backward(hostSets) {
		do(ipset.Destroy(s.Name))
	}
	do(sysctl.New(opts.hostParams()).Restore())
	if err := os.Remove(opts.sandboxParams()); !errors.Is(err, os.ErrNotExist) {
		do(err)
	}
	return errors.Join(errs...)
}

// downLink removes the link to the sandbox, and what the host remembers of
// connections that went there.
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
	return forget(func(f *netlink.ConntrackFlow) bool {
		return f.Reverse.SrcIP.Equal(sandboxAddr.AsSlice()) || f.Mark&kindMask == markOurs
	})
}
