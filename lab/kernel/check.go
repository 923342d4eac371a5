package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The data planes of shoal. What a kernel must have depends on which of them is to run on it.
const (
	IPVS     = "ipvs"
	NFTables = "nftables"
	Auto     = "auto" // the first of the two that this machine's kernel has all of, else IPVS
)

// modules is what a shoal host and a Docker engine need of the kernel, as far as it may be built as modules. Those the
// kernel loads by itself when first used (the matches and targets of iptables, types of links, expressions of nftables) are
// left to it.
var modules = []string{
	"overlay", "veth", "bridge", "br_netfilter", "dummy", "vxlan", "ipip",
	"ip_tables", "iptable_filter", "iptable_nat", "iptable_mangle", "iptable_raw", "nf_conntrack", "nf_conntrack_netlink",
	"xt_set", "xt_mark", "xt_connmark", "xt_addrtype", "xt_conntrack", "xt_MASQUERADE", "nf_tables", "nft_chain_nat",
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

// choosePlane returns the data plane for a job that asks for one of those above, and what this machine's kernel lacks for it.
func choosePlane(plane string) (chosen string, lacks []string, err error) {
	switch plane {
	case IPVS, NFTables:
		lacks, err = missing(plane)
		return plane, lacks, err
	case Auto, "":
	default:
		return "", nil, fmt.Errorf("there is no data plane %q; use %s, %s or %s", plane, Auto, IPVS, NFTables)
	}
	lacks, err = missing(IPVS)
	if err != nil || len(lacks) == 0 {
		return IPVS, nil, err
	}
	if others, err := missing(NFTables); err != nil || len(others) == 0 {
		return NFTables, nil, err
	}
	return IPVS, lacks, nil
}

// missing says what a host with that data plane needs that this kernel has not, by making one of each in a new network
// namespace.
func missing(plane string) (lacks []string, err error) {
	err = inNewNetns(func() error {
		need := func(what string, err error) {
			if err != nil {
				lacks = append(lacks, what)
			}
		}
		for _, link := range []netlink.Link{
			&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}},
			&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ve0"}, PeerName: "ve1"},
			&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx"}, VxlanId: 1, Port: 4789},
		} {
			need(link.Type(), netlink.LinkAdd(link))
		}
		_, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables")
		need("br_netfilter", err)
		switch plane {
		case IPVS:
			_, err = netlink.GenlFamilyGet("IPVS")
			need("ip_vs", err)
			for _, kind := range []string{"hash:ip", "hash:net"} {
				need("ipset "+kind, netlink.IpsetCreate(strings.ReplaceAll(kind, ":", "-"), kind, netlink.IpsetCreateOptions{Skbinfo: true}))
			}
		case NFTables:
			if err := tryNFTables(); err != nil {
				lacks = append(lacks, fmt.Sprintf("nf_tables with NAT by map, or the program nft to try it (%v)", err))
			}
		}
		return nil
	})
	return lacks, err
}

// tryNFTables makes a table with what the data plane uses.
func tryNFTables() error {
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(`table ip lab {
	map slots {
		type ipv4_addr . mark : ipv4_addr
	}
	chain prerouting {
		type nat hook prerouting priority -100
		ct mark set numgen inc mod 2
		ct mark set jhash ip saddr mod 2
		dnat to ip daddr . ct mark map @slots
	}
}
`)
	if out, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
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
