package lb

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"shoal/model"
)

// Key names a frontend: what is balanced together.
type Key struct {
	VIP      netip.Addr     // zero: a published port of the host
	Protocol model.Protocol // of every port: TCP, which is SCTP too, or UDP
	Port     uint16         // 0: every port of the VIP that has no frontend of its own
}

// Published tells whether it is a port of the routing mesh.
func (k Key) Published() bool { return !k.VIP.IsValid() }

// String is "10.96.0.1 tcp", "10.96.0.1:80/tcp", or "8080/tcp" of a published
// port.
func (k Key) String() string {
	switch {
	case k.Published():
		return fmt.Sprintf("%d/%s", k.Port, k.Protocol)
	case k.Port == 0:
		return fmt.Sprintf("%s %s", k.VIP, k.Protocol)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(k.VIP, k.Port), k.Protocol)
}

// Compare orders by VIP, protocol and port; published ports come first.
func (k Key) Compare(o Key) int {
	return cmp.Or(k.VIP.Compare(o.VIP), cmp.Compare(k.Protocol, o.Protocol), cmp.Compare(k.Port, o.Port))
}

// Frontend is where clients connect to, and what is behind it. It is immutable.
type Frontend struct {
	Key
	Service   model.ServiceID
	On        []netip.Addr  // of a published port: the host's addresses that it is on, in order; none: every one
	Scheduler string        // as IPVS calls it, "rr"
	Affinity  time.Duration // a client keeps its backend this long, whole seconds; 0: it does not
	Backends  []Backend     // by address
}

// Backend is a task behind a frontend.
type Backend struct {
	Addr   netip.AddrPort // port 0: the packet's own
	Weight int            // 0 to [MaxWeight]; 0: it is given no connections, and keeps those that it has, but of UDP
	Until  time.Time      // of a draining task, or one whose host is considered dead: gone when idle, at the latest then; else zero
	Lost   bool           // its host is considered dead: a connection that it has not answered yet is another task's
	Local  bool           // a task of this host
}

// LostGrace is how long connections to a host that is considered dead are left
// to it: so long a partition or a slow host costs nothing.
const LostGrace = 10 * time.Second

// MaxWeight is the most a backend is given. IPVS takes up to 2³¹, but sums
// weights in an int (wlc, sh, mh).
const MaxWeight = 65535

// Live tells whether the frontend takes new connections.
func (f *Frontend) Live() bool {
	return slices.ContainsFunc(f.Backends, func(b Backend) bool { return b.Weight > 0 })
}

// Endpoint is what an address of tasks is, whatever they serve.
type Endpoint struct {
	Local bool // a task of this host has it
	Host  bool // it is this host's own: the task is on the host's network
}

// Between is what passes between this host's containers and other hosts, as
// the fabric carries it.
type Between struct {
	Own       netip.Prefix   // of this host's containers
	Nets      []netip.Prefix // of other hosts' containers, in order
	Hosts     []netip.Addr   // other hosts, in order
	HostAddrs []netip.Addr   // all addresses that those send from themselves, in order
	Links     []Link         // who comes in by which device, in order
	Tunnels   []Tunnel       // what only Hosts may send
}

// Link is a source, and the device that its packets come in by.
type Link struct {
	Net    netip.Prefix
	Device string
}

// Tunnel matches the outer packets of a tunnel.
type Tunnel struct {
	Protocol uint8  // IANA's number: 17 is UDP, 4 is IP in IP
	Port     uint16 // destination port of UDP; 0: it has none
}
