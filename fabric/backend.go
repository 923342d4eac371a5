package fabric

import (
	"fmt"
	"strings"

	"shoal/fabric/hostgw"
	"shoal/fabric/ipip"
	"shoal/fabric/transport"
	"shoal/fabric/vxlan"
	"shoal/model"
)

// Backend is the setting by which way packets go to other hosts: a transport,
// or [Auto].
type Backend string

// The backends.
const (
	HostGW Backend = hostgw.Name // by a route through the peer, on a link shared with it
	VXLAN  Backend = vxlan.Name  // Ethernet in UDP
	IPIP   Backend = ipip.Name   // IP in IP
	Auto   Backend = "auto"      // for each peer, host-gw where it is on a link of ours that carries what containers send, else vxlan
)

// ParseBackend reads the name of a backend.
func ParseBackend(s string) (Backend, error) {
	switch b := Backend(s); b {
	case HostGW, VXLAN, IPIP, Auto:
		return b, nil
	}
	return "", fmt.Errorf("backend %q: use one of %s", s, strings.Join([]string{string(Auto), string(HostGW), string(VXLAN), string(IPIP)}, ", "))
}

// transports are those that a setting may use, the one to be tried first in
// front. Their devices are kept whether a peer needs them or not.
func (o *Options) transports() []transport.Transport {
	v := vxlan.VXLAN{VNI: o.VNI, Port: o.Port, ChecksumOff: o.ChecksumOff}
	switch o.Backend {
	case HostGW:
		return []transport.Transport{hostgw.HostGW{}}
	case IPIP:
		return []transport.Transport{ipip.IPIP{}}
	case VXLAN:
		return []transport.Transport{v}
	}
	return []transport.Transport{hostgw.HostGW{EtherOnly: true}, v}
}

// tunnels are the tunnels of the transports, by the names of their devices.
func (o *Options) tunnels() map[string]transport.Tunnel {
	ts := map[string]transport.Tunnel{}
	for _, tr := range o.transports() {
		if t := tr.Tunnel(); t != nil {
			ts[t.Name()] = t
		}
	}
	return ts
}

// MTU is that of the containers' network where packets between hosts leave by
// a network card of MTU nic (1500 on most), in octets. All hosts must use the
// same, the least of them: a container cannot be told otherwise by the hosts
// on the way, as filters tend to drop such messages.
func MTU(b Backend, nic int) int {
	o := Options{Backend: b}
	most := 0
	for _, t := range o.transports() {
		most = max(most, t.Overhead())
	}
	return nic - most
}

// Senders are the Ethernet addresses that packets of a host may come in with.
// There is none where only the source of an outer packet tells whose they are.
func Senders(b Backend, host model.Node) (macs []model.MAC) {
	o := Options{Backend: b}
	for _, t := range o.transports() {
		if m := t.Sender(host); m != (model.MAC{}) {
			macs = append(macs, m)
		}
	}
	return macs
}
