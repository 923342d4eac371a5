package fabric

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/model"
)

const (
	vxlanName = "shoal.vxlan"

	// DefaultVNI is the VXLAN network identifier.
	DefaultVNI = 0x53

	// DefaultPort is the UDP port of vxlan. It is nobody else's: 4789 (IANA's)
	// is Docker Swarm's, and some hypervisors keep it for themselves; 8472
	// (Linux's own default) is that of flannel and Cilium. Packets to the port
	// from outside the cluster are dropped, which would be theirs.
	DefaultPort = 8483
)

// vxlan carries Ethernet frames in UDP (RFC 7348): outer IPv4 header, UDP and
// VXLAN headers, and the inner Ethernet header make 20+8+8+14 octets.
//
// The route's next hop is the peer's own address, as if the peer were on the
// tunnel's link. The neighbour table of the device says which Ethernet address
// that is, its forwarding table (FDB) to which IP address frames for that
// Ethernet address go: the same again. Nothing but the peer's address has to
// be known, and tunnel ends need no addresses for each other.
type vxlan struct {
	vni         int
	port        uint16
	checksumOff bool
}

func (o *Options) vxlan() vxlan { return vxlan{o.VNI, o.Port, o.ChecksumOff} }

func (vxlan) overhead() int { return 50 }

func (v vxlan) device(self model.Node, mtu int) *device {
	return &device{
		name: vxlanName, kind: "vxlan", local: self.Addr,
		vni: v.vni, port: v.port, mac: VTEPMAC(self.Addr),
		mtu: mtu - v.overhead(), addr: model.PlanOf(self.Subnet).Tunnel, up: true, loose: true, checksumOff: v.checksumOff,
	}
}

func (v vxlan) outer() string { return fmt.Sprintf("-p udp --dport %d", v.port) }

func (vxlan) path(peer model.Node, _ []link) (path, error) {
	return path{peer: peer, backend: VXLAN, dev: vxlanName}, nil
}

// VTEPMAC is the Ethernet address of the tunnel end (VTEP) of the host with
// that address: locally administered, and made of the address alone, so that it
// needs no record and survives restarts.
func VTEPMAC(host netip.Addr) model.MAC {
	m := model.MAC{0x02, 0x53}
	if host = host.Unmap(); host.Is4() {
		a := host.As4()
		copy(m[2:], a[:])
		return m
	}
	h := fnv.New32a()
	h.Write(host.AsSlice())
	copy(m[2:], h.Sum(nil))
	return m
}

// vxlanLink is the device as it is made. It is bound to no network card: the
// outer packets go where routes lead.
func vxlanLink(d *device) netlink.Link {
	return &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: d.name, MTU: d.mtu, HardwareAddr: d.mac[:]},
		VxlanId:   d.vni,
		SrcAddr:   d.local.AsSlice(),
		Port:      int(d.port),
		Learning:  false,
	}
}

func vxlanDevice(l *netlink.Vxlan, d *device) {
	d.vni, d.port = l.VxlanId, uint16(l.Port)
	d.local = addrOf(l.SrcAddr)
	if len(l.HardwareAddr) == len(d.mac) {
		d.mac = model.MAC(l.HardwareAddr)
	}
}

func vxlanHint(d *device, err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("this kernel has no vxlan: run `modprobe vxlan` on the host, or use the backend %s or %s", HostGW, IPIP)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: another device has VNI %d on UDP port %d: choose another by --vxlan-vni, on all hosts", err, d.vni, d.port)
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%w: UDP port %d is taken by a process or by another kind of tunnel: choose another by --vxlan-port, on all hosts", err, d.port)
	}
	return err
}

// neighbours reads the static entries of the device: neighbours (address ->
// Ethernet address) and forwarding entries (Ethernet address -> host). On a
// device of ours all of them are ours.
func neighbours(index int) (neigh map[netip.Addr]model.MAC, fdb map[model.MAC]netip.Addr, err error) {
	neigh, fdb = map[netip.Addr]model.MAC{}, map[model.MAC]netip.Addr{}
	list, err := retry(func() ([]netlink.Neigh, error) { return netlink.NeighList(index, netlink.FAMILY_V4) })
	if err != nil {
		return nil, nil, fmt.Errorf("list the neighbours on %s: %w", vxlanName, err)
	}
	for _, n := range list {
		if n.State == netlink.NUD_PERMANENT && len(n.HardwareAddr) == 6 {
			neigh[addrOf(n.IP)] = model.MAC(n.HardwareAddr)
		}
	}
	list, err = retry(func() ([]netlink.Neigh, error) { return netlink.NeighList(index, unix.AF_BRIDGE) })
	if err != nil {
		return nil, nil, fmt.Errorf("list the forwarding entries of %s: %w", vxlanName, err)
	}
	for _, n := range list {
		if len(n.HardwareAddr) == 6 {
			fdb[model.MAC(n.HardwareAddr)] = addrOf(n.IP)
		}
	}
	return neigh, fdb, nil
}

func neighEntry(index int, a netip.Addr, m model.MAC) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST,
		IP: a.AsSlice(), HardwareAddr: net.HardwareAddr(m[:]),
	}
}

func fdbEntry(index int, m model.MAC, a netip.Addr) *netlink.Neigh {
	n := &netlink.Neigh{
		LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
		HardwareAddr: net.HardwareAddr(m[:]),
	}
	if a.IsValid() {
		n.IP = a.AsSlice()
	}
	return n
}
