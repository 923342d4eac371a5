package lab

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"shoal/lab/kernel"
)

// Frontend is what a host's kernel balances, a VIP, a port of one or a published port, with what it is balanced over.
type Frontend struct {
	Published bool   // it is a port of the host's, not of a VIP
	Scheduler string // in IPVS; with nftables the kernel knows of none
	Backends  []Backend
}

// Backend is a task as the kernel has it, with the task's port, 0 where that is the packet's own.
type Backend struct {
	Addr   netip.AddrPort
	Weight int // 0: it gets no new connections
}

// Frontends reads from the host's kernel what it balances, by the tools of the data plane.
func (h *Host) Frontends() ([]Frontend, error) {
	script, parse := ipvsScript, parseIPVS
	if Plane() == kernel.NFTables {
		script, parse = nftScript, parseNFTables
	}
	out, err := h.TryExec("sh", "-c", script)
	if err != nil {
		return nil, err
	}
	return parse(out)
}

// ledScript prints a line for each established connection of a protocol (-t, -u) to an address, of the sockets of all network
// namespaces of a machine.
const ledScript = `for p in /proc/[0-9]*; do echo "$(readlink $p/ns/net) ${p#/proc/}"; done | sort -u -k1,1 |
while read ns pid; do nsenter -t $pid -n ss -Hn "$0" state established dst "$1" 2>/dev/null; done; true`

// Connections is how many connections to a task the host's balancer holds: established ones over TCP, flows over UDP. Those
// that were made to the task's own address are none of them; but where connections are led in connect(), nothing tells them
// from others of TCP and of connected UDP sockets.
func (h *Host) Connections(proto string, task netip.Addr) (int, error) {
	n, err := h.planeConnections(proto, task)
	option, led := map[string]string{"tcp": "-t", "udp": "-u"}[proto]
	if err != nil || !led || !SocketBalancing() {
		return n, err
	}
	out, err := h.TryExec("sh", "-c", ledScript, option, task.String())
	for line := range strings.Lines(out) {
		if strings.TrimSpace(line) != "" {
			n++
		}
	}
	return n, err
}

func (h *Host) planeConnections(proto string, task netip.Addr) (int, error) {
	if Plane() == kernel.NFTables {
		out, err := h.TryExec("conntrack", "-L", "-p", proto, "--reply-src", task.String())
		return countConntrack(out, proto, task), err
	}
	out, err := h.TryExec("ipvsadm", "-lcn")
	return countIPVS(out, proto, task), err
}

// RealServers are the addresses that VIPs, or published ports, give new connections to, sorted. DNS servers, at port 53, are
// none of them: the second DNS address has those of other hosts behind it.
func RealServers(all []Frontend, published bool) (addrs []string) {
	for _, f := range all {
		for _, b := range f.Backends {
			if f.Published == published && b.Weight > 0 && b.Addr.Port() != 53 {
				addrs = append(addrs, b.Addr.Addr().String())
			}
		}
	}
	slices.Sort(addrs)
	return slices.Compact(addrs) // one is there for TCP and for UDP
}

// sortBackends brings a frontend's backends into an order that is the same each time.
func sortBackends(all []Backend) {
	slices.SortFunc(all, func(a, b Backend) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Weight, b.Weight)) })
}

// errTwoParts says that a script's output lacks the line that is between what its two commands say.
var errTwoParts = errors.New("the output has no two parts")
