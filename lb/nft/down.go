package nft

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/kernel/rules"
	"shoal/lb"
	"shoal/model"
)

func isLink(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

// Down takes everything away that any Plane with these options made in the
// network namespace of the calling thread, but for what every plane has there
// (package host): another plane may be the one that needs it now. Connections
// through VIPs and published ports end. Where there is no table of ours nothing
// was carried by it, and connections are left alone: they are another plane's.
func Down(ctx context.Context, opts lb.PlaneOptions) error {
	var errs []error
	do := func(err error) { errs = append(errs, err) }
	if hasIPTables() {
		names := make([]string, len(iptables))
		for i, c := range iptables {
			names[i] = c.Name
		}
		do(rules.Remove(ctx, names...))
	}
	had, err := dropTable()
	do(err)
	if had {
		do(forgetAll(opts.Pool))
	}
	return errors.Join(errs...)
}

// dropTable deletes the table, and tells whether there was one.
func dropTable() (had bool, err error) {
	l, _, err := library()
	if err != nil {
		return false, err
	}
	defer l.CloseLasting()
	if _, err := l.ListTable(tableName); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	kernel.Wrote("nftables", 1)
	l.DelTable(table)
	if err := l.Flush(); err != nil {
		return true, fmt.Errorf("delete the table %s: %w", tableName, err)
	}
	return true, nil
}

// Available tells what the kernel lacks, nil if nothing: it makes the whole
// table in a network namespace that is thrown away.
func Available(context.Context) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends, and the namespace with it
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace: %w", err)
			}
			return try()
		}()
	}()
	return <-result
}

// try makes the table, with a balancer of each kind.
func try() error {
	l, _, err := library()
	if err != nil {
		return model.KernelIncomplete.Errorf("this kernel has no nf_tables (%w): run `modprobe nf_tables` on the host, or install the package with the kernel's extra modules", err)
	}
	defer l.CloseLasting()
	base := &lb.Base{Self: tryNode, Alone: true, Peers: []lb.Peer{{Number: 1}}}
	around := surroundings{
		opts:    lb.PlaneOptions{Pool: netip.MustParsePrefix("10.96.0.0/16"), DNS: netip.MustParseAddr("10.96.0.10"), DNSPeers: netip.MustParseAddr("10.96.0.11")},
		base:    base,
		engine:  true,
		zoned:   hasZones(),
		between: lb.Between{Own: tryNode.Subnet, Tunnels: []lb.Tunnel{{Protocol: unix.IPPROTO_UDP, Port: 1}}},
	}
	s := structure{sets: map[string]*nftables.Set{}, chains: map[string]*builtChain{}}
	b := builder{lib: l, trial: true}
	if err := b.frame(&s); err != nil {
		return err
	}
	all := around.chains()
	for _, x := range everyBalancer {
		all = append(all, chain{name: x.chain(), rules: x.rules()})
	}
	b.put(&s, all)
	if err := b.flush(); err != nil {
		return model.KernelIncomplete.Errorf("this kernel's nf_tables lacks something (%w): Linux 5.10 or later is needed, with the modules nft_chain_nat, nft_ct, nft_fib_ipv4, nft_hash, nft_masq, nft_nat, nft_numgen and nft_reject_ipv4", err)
	}
	return nil
}

var tryNode = model.Node{Subnet: netip.MustParsePrefix("10.244.1.0/24")}

// everyBalancer has one of each kind.
var everyBalancer = []balancer{
	closed(ofPort), {form: ofPort, scheduler: "rr", slots: 2, lane: 1}, {form: ofTCP, scheduler: "wrr", slots: 2}, {form: ofUDP, scheduler: "fo", slots: 1},
	{form: ofPublished, scheduler: "sh", slots: 251, affinity: 1e9}, {form: ofTCP, scheduler: "rr", slots: 2, affinity: 1e9}, {form: ofPort, scheduler: "fo", slots: 1, affinity: 1e9}, {form: ofPort, scheduler: "dh", slots: 251},
}
