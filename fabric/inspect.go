package fabric

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	"shoal/kernel"
	"shoal/model"
)

// Hop is the way that this host's kernel sends packets to an address.
type Hop struct {
	Dst    netip.Addr   `json:"dst"`
	Node   string       `json:"node,omitempty"`    // the host whose subnet or address that is; "": of none
	Ours   bool         `json:"ours"`              // the route is the fabric's
	Way    Backend      `json:"backend,omitempty"` // of that route
	Device string       `json:"device"`            // "lo": the address is this host's own
	Via    netip.Addr   `json:"via,omitzero"`      // the next hop; zero: it is on the device's link
	Src    netip.Addr   `json:"src,omitzero"`      // what the host itself would send from
	VTEP   *VTEP        `json:"vtep,omitempty"`    // of a tunnel that takes entries for each host: what the kernel's tables make of Via
	Route  string       `json:"route"`             // the kernel's answer, as `ip route get` prints it
	Prefix netip.Prefix `json:"prefix,omitzero"`   // the destination of the route that was taken
	MAC    model.MAC    `json:"mac,omitzero"`      // on the device's link: the neighbour entry; zero: the kernel has not asked for it lately
}

// VTEP is the far end of such a tunnel, in the kernel's words: zero where it
// has no entry, and then nothing arrives.
type VTEP struct {
	MAC    model.MAC  `json:"mac,omitzero"`    // the neighbour entry of the next hop
	Remote netip.Addr `json:"remote,omitzero"` // the forwarding entry of that Ethernet address
}

// Inspect asks the kernel how it reaches an address. The error tells that it
// has no route, or what it said.
func (f *Fabric) Inspect(dst netip.Addr) (Hop, error) {
	f.mu.Lock()
	h := Hop{Dst: dst, Node: f.hostOf(dst)}
	f.mu.Unlock()
	got, err := netlink.RouteGet(dst.AsSlice())
	if err != nil || len(got) == 0 {
		return h, fmt.Errorf("ask the kernel for its route to %s: %w", dst, err)
	}
	names, err := deviceNames()
	if err != nil {
		return h, err
	}
	r := got[0]
	h.Device, h.Via, h.Src = names[r.LinkIndex], addrOf(r.Gw), addrOf(r.Src)

	// The entry of the table that the answer came from.
	if fib, err := netlink.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true}); err == nil && len(fib) > 0 {
		h.Prefix = prefixOf(fib[0].Dst)
		h.Ours = fib[0].Protocol == RouteProtocol
	}
	if h.Ours {
		for _, tr := range f.opts.transports() {
			t := tr.Tunnel()
			if t == nil && !ownDevice(h.Device) {
				h.Way = Backend(tr.Name())
			}
			if t == nil || t.Name() != h.Device {
				continue
			}
			h.Way = Backend(tr.Name())
			if _, ok := t.Neighbour(model.Node{Addr: h.Via}); ok {
				s := newState()
				if err := s.readNeighbours(h.Device, r.LinkIndex); err != nil {
					return h, err
				}
				mac := s.neigh[neighKey{h.Device, h.Via}]
				h.VTEP = &VTEP{MAC: mac, Remote: s.fdb[fdbKey{h.Device, mac}]}
			}
		}
	}
	if !h.Via.IsValid() && h.Device != "lo" {
		list, err := kernel.Dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(r.LinkIndex, netlink.FAMILY_V4) })
		if err != nil {
			return h, fmt.Errorf("list the neighbours on %s: %w", h.Device, err)
		}
		for _, n := range list {
			if addrOf(n.IP) == dst && len(n.HardwareAddr) == len(h.MAC) {
				h.MAC = model.MAC(n.HardwareAddr)
			}
		}
	}
	h.Route = words(h)
	return h, nil
}

// hostOf is the host with that address, or with a container that has it.
func (f *Fabric) hostOf(dst netip.Addr) string {
	for _, n := range f.last.nodes {
		if n.Addr == dst || n.Subnet.IsValid() && n.Subnet.Contains(dst) {
			return n.Name
		}
	}
	return ""
}

// words is the route as `ip route get` prints it.
func words(h Hop) string {
	w := []string{h.Dst.String()}
	if h.Via.IsValid() {
		w = append(w, "via", h.Via.String())
	}
	w = append(w, "dev", h.Device)
	if h.Src.IsValid() {
		w = append(w, "src", h.Src.String())
	}
	return strings.Join(w, " ")
}
