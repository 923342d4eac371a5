package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
	"shoal/kernel/rules"
	"shoal/lb"
	"shoal/lb/host"
	"shoal/model"
)

// Available tells why this kernel cannot balance by IPVS: what is missing and
// how to get it. It is nil if it can. All that the plane uses is made in a network
// namespace that is thrown away.
func Available(ctx context.Context) error {
	limits, err := host.HostLimits()
	if err == nil {
		err = ipvs.Load(ctx, limits.Bits)
	}
	if err != nil {
		return model.KernelIncomplete.Of(err)
	}
	h, err := ipvs.New(ctx)
	if err != nil {
		return model.KernelIncomplete.Of(err)
	}
	h.Close()
	if err := hasSets(); err != nil {
		return err
	}
	return kernel.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w; run the agent as root, in a container with --privileged", err)
		}
		for _, s := range slices.Concat(hostSets, boxSets, betweenSets) {
			if err := ipset.Try(s); err != nil {
				module := "ip_set_" + strings.NewReplacer(":", "_", ",", "").Replace(s.Type)
				return model.KernelIncomplete.Errorf("%w: run `modprobe %s` on the host, or install the package with the kernel's extra modules", err, module)
			}
		}
		return tryRules(ctx)
	})
}

// tryRules makes one of each rule.
func tryRules(ctx context.Context) error {
	path, err := exec.LookPath("iptables-restore")
	if err != nil {
		return model.KernelIncomplete.Errorf("%w: install the package iptables", err)
	}
	some := netip.MustParsePrefix("10.0.0.0/16")
	o := &Options{PlaneOptions: lb.PlaneOptions{Pool: some, DNS: some.Addr().Next(), DNSPeers: some.Addr().Next()}}
	base := &lb.Base{
		Self: model.Node{Subnet: some}, Alone: true,
		DNSPorts: map[netip.Addr]uint16{o.DNS: 1},
	}
	between := &lb.Between{Own: some, Tunnels: []lb.Tunnel{{Protocol: unix.IPPROTO_UDP, Port: 1}, {Protocol: unix.IPPROTO_IPIP}}}
	restore := exec.CommandContext(ctx, path, "--wait")
	restore.Stdin = strings.NewReader(restoreText(slices.Concat(
		vipChains(o, base), meshChains(some), betweenChains(between), sandboxChains())))
	out, err := restore.CombinedOutput()
	if err == nil {
		return nil
	}
	why := err.Error()
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" {
			why = line
			break
		}
	}
	return model.KernelIncomplete.Errorf("this kernel, or its iptables, has not all of the matches and targets that rules need (%s): install the package with the kernel's extra modules (kernel-modules-extra, linux-modules-extra), and iptables", why)
}

// restoreText is chains as iptables-restore reads them. Those of the same name,
// of the host and of the sandbox, become one.
func restoreText(chains []rules.Chain) string {
	var b strings.Builder
	for _, table := range rules.Tables(chains) {
		fmt.Fprintf(&b, "*%s\n", table)
		declared := map[string]bool{}
		for _, c := range chains {
			if c.Table == table && !declared[c.Name] {
				declared[c.Name] = true
				fmt.Fprintf(&b, ":%s -\n", c.Name)
			}
		}
		for _, c := range chains {
			if c.Table != table {
				continue
			}
			for _, r := range c.Rules {
				fmt.Fprintf(&b, "-A %s %s\n", c.Name, r)
			}
			for _, j := range c.From {
				fmt.Fprintf(&b, "-A %s %s -j %s\n", j.From, j.Match, c.Name)
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}
