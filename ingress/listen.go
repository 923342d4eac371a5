package ingress

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"shoal/kernel/rules"
	"shoal/kernel/sockets"
	"shoal/lb"
	"shoal/model"
)

// occupant is who has a port of this host already: a listener, or a rule that
// sends its packets elsewhere.
type occupant struct {
	sockets.Listener
	rule string // "" of a listener
}

// describe says who it is, by the names of processes that have sockets.
func (o occupant) describe(processes map[uint32]string) string {
	if o.rule != "" {
		return fmt.Sprintf("the iptables rule %q, which is not the mesh's, takes it (Docker's -p makes such rules)", o.rule)
	}
	return fmt.Sprintf("%s listens on %s", cmp.Or(processes[o.Inode], "a process"), o.Addr)
}

// occupied finds which ports are somebody else's already, and says whose. It
// asks for the names of all processes at once, if it needs any. counts tells whether a
// listener is one for a port.
func occupied(fs []*lb.Frontend, pool netip.Prefix, ls []sockets.Listener, rs []redirect, counts func(lb.Key, sockets.Listener) bool, processes func(inodes map[uint32]bool) map[uint32]string) map[lb.Key]error {
	found := map[*lb.Frontend]occupant{}
	inodes := map[uint32]bool{}
	for _, f := range fs {
		counted := func(l sockets.Listener) bool { return counts == nil || counts(f.Key, l) }
		if who, taken := occupy(f.Key, f.On, pool, ls, rs, counted); taken {
			found[f] = who
			if who.rule == "" {
				inodes[who.Inode] = true
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
// What listens on a VIP alone is in nobody's way. counts tells whether a listener is
// one for the port; nil: all are.
func occupy(k lb.Key, addrs []netip.Addr, pool netip.Prefix, listeners []sockets.Listener, redirects []redirect, counts func(sockets.Listener) bool) (occupant, bool) {
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
		if l.Protocol == k.Protocol && l.Addr.Port() == k.Port && takesIPv4(l) && !pool.Contains(l.Addr.Addr()) && touches(l.Addr.Addr()) && (counts == nil || counts(l)) {
			return occupant{Listener: l}, true
		}
	}
	for _, r := range redirects {
		if r.proto == k.Protocol && r.low <= k.Port && k.Port <= r.high && touches(r.addr) {
			return occupant{rule: r.rule}, true
		}
	}
	return occupant{}, false
}

// takesIPv4 tells whether a listener has clients of IPv4: one of IPv6 alone may be there
// beside a published port, which has none of IPv6.
func takesIPv4(l sockets.Listener) bool {
	a := l.Addr.Addr()
	return a.Is4() || a.Is4In6() || a.IsUnspecified() && !l.V6Only
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
