package kernel

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// modules is what a shoal host and a Docker engine need of the kernel, as far as it may be built as modules. Those the
// kernel loads by itself when first used (the matches and targets of iptables, types of links) are left to it.
var modules = []string{
	"overlay", "veth", "bridge", "br_netfilter", "dummy", "vxlan", "ipip",
	"ip_tables", "iptable_filter", "iptable_nat", "iptable_mangle", "iptable_raw", "nf_conntrack", "nf_conntrack_netlink",
	"xt_set", "xt_mark", "xt_connmark", "xt_addrtype", "xt_conntrack", "xt_MASQUERADE",
	"ip_set", "ip_set_hash_ip", "ip_set_hash_ipport", "ip_set_hash_net",
	"ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_lc", "ip_vs_wlc", "ip_vs_sh", "ip_vs_mh", "ip_vs_sed", "ip_vs_nq",
	"ip_vs_dh", "ip_vs_fo", "ip_vs_ovf", "ip_vs_lblc", "ip_vs_lblcr", "sctp", "sch_netem",
}

// loadModules loads what there is of modules. What is missing is found by missing, which also knows what is built in.
func loadModules() {
	if path, err := exec.LookPath("modprobe"); err == nil {
		_ = exec.Command(path, append([]string{"-qa"}, modules...)...).Run()
	}
}

// missing says what a shoal host needs that this kernel has not, by making one of each in a new network namespace.
func missing() (lacks []string, err error) {
	// The thread is left in the new namespace, and so must end with this goroutine.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		lacks, err = probe()
	}()
	<-done
	return lacks, err
}

func probe() ([]string, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, fmt.Errorf("make a network namespace (are you root?): %w", err)
	}
	defer ns.Close()
	var lacks []string
	need := func(what string, err error) {
		if err != nil {
			lacks = append(lacks, what)
		}
	}
	_, err = netlink.GenlFamilyGet("IPVS")
	need("ip_vs", err)
	for _, kind := range []string{"hash:ip", "hash:net"} {
		need("ipset "+kind, netlink.IpsetCreate(strings.ReplaceAll(kind, ":", "-"), kind, netlink.IpsetCreateOptions{Skbinfo: true}))
	}
	for _, link := range []netlink.Link{
		&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}},
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ve0"}, PeerName: "ve1"},
		&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx"}, VxlanId: 1, Port: 4789},
		&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "du"}},
	} {
		need(link.Type(), netlink.LinkAdd(link))
	}
	_, err = os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables")
	need("br_netfilter", err)
	return lacks, nil
}

// legacyIPTables says whether iptables-legacy is what works on this kernel, where the iptables first on PATH does not. So
// it is on User-Mode Linux, which has no nf_tables for IPv4. Both are tried by making a chain, and removing it.
func legacyIPTables() bool {
	works := func(program string) bool {
		if exec.Command(program, "-w", "-t", "nat", "-N", "LAB-PROBE").Run() != nil {
			return false
		}
		return exec.Command(program, "-w", "-t", "nat", "-X", "LAB-PROBE").Run() == nil
	}
	return !works("iptables") && works("iptables-legacy")
}

// ignore drops the errors that mean that something was so before.
func ignore(err error, known ...unix.Errno) error {
	for _, k := range known {
		if errors.Is(err, k) {
			return nil
		}
	}
	return err
}
