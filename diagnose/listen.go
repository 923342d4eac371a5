package diagnose

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"shoal/model"
)

// Listener is a socket that waits for clients in a container's network.
type Listener struct {
	Protocol model.Protocol `json:"protocol"`
	Addr     netip.AddrPort `json:"addr"`             // "::" takes IPv4 clients too, unless V6Only
	V6Only   bool           `json:"v6only,omitempty"` //
	Process  string         `json:"process,omitempty"`
}

func (l Listener) who() string { return orElse(oneLine(l.Process), "a process") }

// takes tells whether it takes IPv4 clients that connect to an address.
func (l Listener) takes(at netip.Addr) bool {
	a := l.Addr.Addr()
	return !l.V6Only && (a.IsUnspecified() || a == at)
}

// hearing is what was found of a port: whether somebody listens there.
type hearing struct {
	OK  bool
	Why string         // what is wrong, or who listens
	Fix string         // what the process, or its settings, should do; "": its labels may name another port
	Use uint16         // the port that it does listen on; 0: none, or several
	As  model.Protocol // and by which protocol
}

// hears tells who of the listeners takes what comes to a port of the address at.
func hears(ls []Listener, at netip.Addr, proto model.Protocol, port uint16) hearing {
	var here, other *Listener
	var reach, unreached []Listener
	for i := range ls {
		l := &ls[i]
		switch {
		case l.Addr.Addr() == dockerResolver:
			continue
		case l.Addr.Port() == port && l.Protocol == proto && l.takes(at):
			return hearing{OK: true, Why: fmt.Sprintf("%s listens on %d/%s", l.who(), port, proto)}
		case l.Addr.Port() == port && l.Protocol == proto:
			here = l
		case l.Addr.Port() == port && l.takes(at):
			other = l
		case l.Protocol == proto && l.takes(at):
			reach = append(reach, *l)
		case l.Protocol == proto:
			unreached = append(unreached, *l)
		}
	}
	switch {
	case here != nil:
		return deafHere(here, at)
	case other != nil:
		return hearing{
			Why: fmt.Sprintf("nothing listens on %d/%s; %s listens on %d/%s", port, proto, other.who(), port, other.Protocol),
			Use: port, As: other.Protocol,
		}
	case len(reach) > 0:
		h := hearing{Why: "nothing listens; " + listed(reach)}
		if ports := portsOf(reach); len(ports) == 1 {
			h.Use, h.As = ports[0], proto
		}
		return h
	case len(unreached) > 0:
		h := deafHere(&unreached[0], at)
		h.Why = "nothing listens; " + h.Why
		return h
	}
	return hearing{
		Why: fmt.Sprintf("nothing listens, on any port of %s", proto),
		Fix: "see by its log why its process does not listen",
	}
}

// deafHere tells why a listener takes no clients from elsewhere.
func deafHere(l *Listener, at netip.Addr) hearing {
	a := l.Addr.Addr()
	h := hearing{Why: fmt.Sprintf("%s listens on %s only", l.who(), l.Addr)}
	switch {
	case a.IsLoopback():
		h.Why += ", which is reached from inside the container alone"
		h.Fix = fmt.Sprintf("have the process listen on 0.0.0.0:%d: the setting is often called host, bind or listen", l.Addr.Port())
	case a.Is6():
		h.Why += ", by IPv6 alone: the mesh carries IPv4"
		h.Fix = fmt.Sprintf("have the process listen on 0.0.0.0:%d", l.Addr.Port())
	default:
		h.Why += fmt.Sprintf(", and not on %s, where the task is reached", at)
		h.Fix = fmt.Sprintf("have the process listen on 0.0.0.0:%d, or name the network of %s by the label shoal.network", l.Addr.Port(), a)
	}
	return h
}

// listed tells who listens where.
func listed(ls []Listener) string {
	byWho := map[string][]string{}
	var order []string
	for _, l := range ls {
		who := l.who()
		if byWho[who] == nil {
			order = append(order, who)
		}
		if p := fmt.Sprintf("%d/%s", l.Addr.Port(), l.Protocol); !slices.Contains(byWho[who], p) {
			byWho[who] = append(byWho[who], p)
		}
	}
	var all []string
	for _, who := range order {
		ports := byWho[who]
		if more := len(ports) - 8; more > 0 {
			ports = append(ports[:8:8], fmt.Sprintf("%d more", more))
		}
		all = append(all, who+" listens on "+strings.Join(ports, ", "))
	}
	return strings.Join(all, "; ")
}

func portsOf(ls []Listener) (ports []uint16) {
	for _, l := range ls {
		ports = append(ports, l.Addr.Port())
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// heardOf are the listeners that clients elsewhere reach at an address.
func heardOf(ls []Listener, at netip.Addr) (reach []Listener) {
	for _, l := range ls {
		if l.takes(at) && l.Addr.Addr() != dockerResolver {
			reach = append(reach, l)
		}
	}
	return reach
}

// dockerResolver is where the engine's own DNS server is in a container.
var dockerResolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// portText is "8000", or "8000/udp": as labels have it.
func portText(port uint16, proto model.Protocol) string {
	if proto == model.TCP {
		return fmt.Sprint(port)
	}
	return fmt.Sprintf("%d/%s", port, proto)
}
