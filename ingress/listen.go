package ingress

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"shoal/internal/printable"
	"shoal/kernel/rules"
	"shoal/lb"
	"shoal/model"
)

// listener is a socket of this host that waits for clients.
type listener struct {
	proto model.Protocol
	addr  netip.AddrPort
	inode uint32
}

// occupant is who has a port of this host already: a listener, or a rule that
// sends its packets elsewhere.
type occupant struct {
	listener
	rule string // "" of a listener
}

// describe says who it is, by the names of processes that have sockets.
func (o occupant) describe(processes map[uint32]string) string {
	if o.rule != "" {
		return fmt.Sprintf("the iptables rule %q, which is not the mesh's, takes it (Docker's -p makes such rules)", o.rule)
	}
	return fmt.Sprintf("%s listens on %s", cmp.Or(processes[o.inode], "a process"), o.addr)
}

// occupied finds which ports are somebody else's already, and says whose. It
// asks for the names of all processes at once, if it needs any.
func occupied(fs []*lb.Frontend, pool netip.Prefix, ls []listener, rs []redirect, processes func(inodes map[uint32]bool) map[uint32]string) map[lb.Key]error {
	found := map[*lb.Frontend]occupant{}
	inodes := map[uint32]bool{}
	for _, f := range fs {
		if who, taken := occupy(f.Key, f.On, pool, ls, rs); taken {
			found[f] = who
			if who.rule == "" {
				inodes[who.inode] = true
			}
		}
	}
	var names map[uint32]string
	if len(inodes) > 0 {
		names = processes(inodes)
	}
	errs := map[lb.Key]error{}
	for f, who := range found {
		errs[f.Key] = model.PortInUse.Errorf("publish %s for %s: on this host %s; stop that, or publish another port", f.Key, f.Service, who.describe(names))
	}
	return errs
}

// occupy finds who has a port on any of the addresses, all if there are none.
// What listens on a VIP alone is in nobody's way.
func occupy(k lb.Key, addrs []netip.Addr, pool netip.Prefix, listeners []listener, redirects []redirect) (occupant, bool) {
	touches := func(a netip.Addr) bool {
		if len(addrs) == 0 || a.IsUnspecified() {
			return true
		}
		for _, b := range addrs {
			if a == b {
				return true
			}
		}
		return false
	}
	for _, l := range listeners {
		if l.proto == k.Protocol && l.addr.Port() == k.Port && !pool.Contains(l.addr.Addr()) && touches(l.addr.Addr()) {
			return occupant{listener: l}, true
		}
	}
	for _, r := range redirects {
		if r.proto == k.Protocol && r.low <= k.Port && k.Port <= r.high && touches(r.addr) {
			return occupant{rule: r.rule}, true
		}
	}
	return occupant{}, false
}

// Requests and answers of sock_diag(7), struct inet_diag_req_v2 and struct
// inet_diag_msg (include/uapi/linux/inet_diag.h).
const (
	diagRequestLen = 56
	diagMessageLen = 72

	diagListen = 10 // TCP_LISTEN, SCTP_SS_LISTENING
	diagClose  = 7  // TCP_CLOSE: a UDP socket that is connected to nobody
)

// listeners are the sockets that wait for clients of these protocols, in the
// network namespace of the calling thread. The kernel is asked for no others,
// however many connections there are.
func listeners(protos map[model.Protocol]bool) (found []listener, err error) {
	for proto := range protos {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			ls, err := listening(family, proto)
			switch {
			case proto == model.SCTP && errors.Is(err, unix.ENOENT):
				// No SCTP in this kernel, no listeners.
			case err != nil:
				return nil, fmt.Errorf("list the host's %s sockets: %w; the kernel's module %s_diag is needed", proto, err, proto)
			}
			found = append(found, ls...)
		}
	}
	return found, nil
}

func listening(family uint8, proto model.Protocol) (found []listener, err error) {
	state := uint32(1) << diagListen
	if proto == model.UDP {
		state = 1 << diagClose
	}
	b := make([]byte, diagRequestLen)
	b[0], b[1] = family, uint8(proto)
	binary.NativeEndian.PutUint32(b[4:], state)
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddRawData(b)
	err = req.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(m []byte) bool {
		if l, ok := parseListener(m, proto); ok {
			found = append(found, l)
		}
		return true
	})
	return found, err
}

// parseListener reads one answer. The address "::" takes IPv4 clients too, as
// a rule, and a listener there is taken for one on every address.
func parseListener(m []byte, proto model.Protocol) (l listener, ok bool) {
	if len(m) < diagMessageLen {
		return l, false
	}
	var addr netip.Addr
	switch m[0] {
	case unix.AF_INET:
		addr = netip.AddrFrom4([4]byte(m[8:12]))
	case unix.AF_INET6:
		addr = netip.AddrFrom16([16]byte(m[8:24])).Unmap()
	default:
		return l, false
	}
	return listener{
		proto: proto,
		addr:  netip.AddrPortFrom(addr, binary.BigEndian.Uint16(m[4:])),
		inode: binary.NativeEndian.Uint32(m[68:]),
	}, true
}

// processes names those that have the sockets, "nginx (pid 123)", in one walk
// through the open files of all. In a container without the host's process
// namespace none can be found.
func processes(inodes map[uint32]bool) map[uint32]string {
	names := map[uint32]string{}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		to, _ := os.Readlink(fd)
		number, isSocket := strings.CutPrefix(to, "socket:[")
		n, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
		inode := uint32(n)
		if !isSocket || err != nil || !inodes[inode] || names[inode] != "" {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		if name, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil {
			names[inode] = fmt.Sprintf("%s (pid %s)", printable.Line(strings.TrimSpace(string(name))), pid)
		}
		if len(names) == len(inodes) {
			break
		}
	}
	return names
}

// redirect is a rule of others in the nat table that sends a port's packets
// elsewhere.
type redirect struct {
	proto     model.Protocol
	addr      netip.Addr // of the host; unspecified: any
	low, high uint16
	rule      string
}

// redirects reads them off the rules of the host, which are in the words of
// iptables-save. Docker makes one for each port of -p, in its chain DOCKER.
func redirects(have rules.State) (found []redirect) {
	for chain, rs := range have["nat"] {
		if strings.HasPrefix(chain, rules.Prefix) {
			continue
		}
		for _, rule := range rs {
			found = append(found, parseRedirect(chain, rule)...)
		}
	}
	return found
}

func parseRedirect(chain, rule string) (found []redirect) {
	r := redirect{addr: netip.IPv4Unspecified(), rule: "-A " + chain + " " + rule}
	ports, target, not := "", "", false
	f := strings.Fields(rule)
	for i := 0; i+1 < len(f); i++ {
		switch f[i] {
		case "-p":
			r.proto, _ = model.ParseProtocol(f[i+1])
		case "-d":
			p, err := netip.ParsePrefix(f[i+1])
			if err != nil || p.Bits() != 32 {
				break // whole networks may hold an address of the host
			}
			r.addr = p.Addr()
		case "--dport", "--dports":
			ports, not = f[i+1], f[i-1] == "!"
		case "-j":
			target = f[i+1]
		}
	}
	if r.proto == 0 || not || target != "DNAT" && target != "REDIRECT" {
		return nil
	}
	for _, s := range strings.Split(ports, ",") {
		low, high, isRange := strings.Cut(s, ":")
		if !isRange {
			high = low
		}
		a, err := strconv.ParseUint(low, 10, 16)
		b, err2 := strconv.ParseUint(high, 10, 16)
		if err != nil || err2 != nil {
			continue
		}
		r.low, r.high = uint16(a), uint16(b)
		found = append(found, r)
	}
	return found
}
