package model

import (
	"encoding/binary"
	"net/netip"
)

// Plan is what the addresses of a host's subnet are for. Containers get those
// that are not in it.
type Plan struct {
	// Tunnel is that of the host's tunnel devices: the lowest of the subnet, which
	// engines give to nobody. The host's own packets carry it into the tunnel, so
	// that replies come back through the tunnel. Kernels before 5.14 take it for a
	// broadcast address if the containers' bridge has it first.
	Tunnel netip.Addr

	// Gateway is that of the containers' bridge.
	Gateway netip.Addr

	// DNS is where the host's DNS server answers other hosts and their
	// containers: on the bridge.
	DNS netip.Addr

	// Probe is the last one before the broadcast address. The host answers on it,
	// so that others can find out whether packets between subnets arrive.
	Probe netip.Addr
}

// PlanOf is the plan of a subnet. It is the zero Plan where there is no subnet,
// or none with room for the plan: IPv4, of 30 bits at most.
func PlanOf(subnet netip.Prefix) Plan {
	if !subnet.IsValid() || !subnet.Addr().Is4() || subnet.Bits() > 30 {
		return Plan{}
	}
	low := subnet.Masked().Addr()
	b := low.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+1<<(32-subnet.Bits())-2)
	return Plan{Tunnel: low, Gateway: low.Next(), DNS: low.Next(), Probe: netip.AddrFrom4(b)}
}
