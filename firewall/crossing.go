package firewall

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Crossing is a packet of a connection that somebody asks about, at a hook of this
// host: "prerouting", "input", "forward", "output" or "postrouting".
type Crossing struct {
	Hook   string
	Packet Packet
	When   When
}

// When is which chains of a hook see the packet as it is.
type When int

// Chains of the hook prerouting see a destination before or after it is changed.
const (
	Always     When = iota
	BeforeDNAT      // those whose priority is not above that of destination NAT
	AfterDNAT       // the others
)

// dnatPriority is that of destination NAT (NF_IP_PRI_NAT_DST).
const dnatPriority = -100

func (w When) sees(c *Chain) bool {
	return w == Always || (w == BeforeDNAT) == (c.Priority <= dnatPriority)
}

// Drop is a base chain that drops a packet.
type Drop struct {
	Family, Table, Chain string
	By                   string // its policy, or a rule of some chain
	Crossing
}

// Dropped leads packets through the tables of others, and tells what drops them for
// certain. What the mesh needs in general is for [Find]: here are packets of one
// address and port.
func Dropped(tables []*Table, crossings []Crossing) (all []Drop) {
	for _, t := range tables {
		for _, c := range t.bases() {
			for i := range crossings {
				x := &crossings[i]
				if c.Hook != x.Hook || !x.When.sees(c) || t.Family == "ip" && t.Name == engine {
					continue
				}
				if by := t.walk(c, &x.Packet); by != "" {
					all = append(all, Drop{t.Family, t.Name, c.Name, by, *x})
					break // one packet tells it
				}
			}
		}
	}
	return all
}

// String says what drops which packet.
func (d *Drop) String() string {
	return fmt.Sprintf("the chain %s of the table %s %s drops %s, in the hook %s, by %s", d.Chain, d.Family, d.Table, d.Packet.words(), d.Hook, d.By)
}

// Remedy is the command that has such packets pass.
func (d *Drop) Remedy() string {
	port := ""
	if d.Packet.Port != 0 {
		port = fmt.Sprintf(" %s dport %d", protocol(d.Packet.Protocol), d.Packet.Port)
	}
	return fmt.Sprintf("nft insert rule %s %s %s ip daddr %s%s accept, and keep that in the file that makes the table", d.Family, d.Table, d.Chain, d.Packet.Dst, port)
}

func (p *Packet) words() string {
	to := p.Dst.String()
	if p.Port != 0 {
		to = netip.AddrPortFrom(p.Dst, p.Port).String()
	}
	return fmt.Sprintf("%s from %s to %s", protocol(p.Protocol), p.Src, to)
}

func protocol(number uint8) string {
	switch number {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return fmt.Sprintf("protocol %d", number)
}
