package ingress

import (
	"net/netip"

	"shoal/kernel/sockets"
	"shoal/lb"
	"shoal/model"
)

// Holder tells which process of this host listens on a port of an address, or on
// that of all addresses: "dnsmasq (pid 612) listens on 0.0.0.0:53"; "": none
// does.
func Holder(proto model.Protocol, at netip.AddrPort) (string, error) {
	ls, err := sockets.Listeners(map[model.Protocol]bool{proto: true})
	if err != nil {
		return "", err
	}
	who, taken := occupy(lb.Key{Protocol: proto, Port: at.Port()}, []netip.Addr{at.Addr()}, netip.Prefix{}, ls, nil, nil)
	if !taken {
		return "", nil
	}
	return who.describe(sockets.Processes(map[uint32]bool{who.Inode: true})), nil
}
