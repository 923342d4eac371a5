package agent

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"shoal/kernel/sockets"
	"shoal/lb"
	"shoal/model"
)

// spareDNSPort is where the DNS server answers on an address whose port 53 is
// another process's. The data plane leads there what is sent to port 53.
const spareDNSPort = 10053

// holdersPeriod is the time between two looks at who has port 53.
const holdersPeriod = 5 * time.Second

// answerPeers has the DNS server answer where other hosts ask it, once it is
// known where that is.
func (a *Agent) answerPeers(ctx context.Context, self model.Node) (again time.Duration, ps []model.Problem) {
	at := model.PlanOf(self.Subnet).DNS
	a.peersMu.Lock()
	defer a.peersMu.Unlock()
	if !at.IsValid() || at == a.peersDNS {
		return 0, nil
	}
	if err := a.dns.Listen(ctx, netip.AddrPortFrom(at, lb.DNSPort)); err != nil {
		return holdersPeriod, []model.Problem{{Code: model.DNSListenFailed, Kind: "dns", Object: at.String(), Reason: err.Error()}}
	}
	a.peersDNS = at
	return 0, nil
}

// dnsPorts are the ports on which the DNS server answers instead of port 53.
func (a *Agent) dnsPorts() map[netip.Addr]uint16 {
	var ports map[netip.Addr]uint16
	for at, port := range a.dns.Displaced() {
		if at.Port() != lb.DNSPort {
			continue
		}
		if ports == nil {
			ports = map[netip.Addr]uint16{}
		}
		ports[at.Addr()] = port
	}
	return ports
}

// portHolders are the processes that have port 53, as last seen.
type portHolders struct {
	looked    time.Time
	listeners []sockets.Listener
	names     map[uint32]string // by the sockets' inodes
	err       error
}

// look finds them, if it is time to.
func (h *portHolders) look(now time.Time) {
	if now.Sub(h.looked) < holdersPeriod {
		return
	}
	h.looked = now
	var all []sockets.Listener
	all, h.err = sockets.Listeners(map[model.Protocol]bool{model.UDP: true, model.TCP: true})
	h.listeners = slices.DeleteFunc(all, func(l sockets.Listener) bool { return l.Addr.Port() != lb.DNSPort })
	inodes, known := map[uint32]bool{}, true
	for _, l := range h.listeners {
		inodes[l.Inode] = true
		known = known && h.names[l.Inode] != ""
	}
	if !known {
		h.names = sockets.Processes(inodes) // a walk through the open files of all processes
	}
}

// dnsPortProblems are the addresses whose port 53 another process has. They are no
// problems any more once nobody has it.
func (a *Agent) dnsPortProblems() (again time.Duration, ps []model.Problem) {
	ports := a.dnsPorts()
	if len(ports) == 0 {
		return 0, nil
	}
	a.holders.look(time.Now())
	for at, port := range ports {
		if who := a.holders.of(at); who != "" {
			ps = append(ps, model.Problem{Code: model.DNSPortTaken, Notice: true, Kind: "dns", Object: fmt.Sprintf("%s:%d", at, lb.DNSPort), Reason: fmt.Sprintf(
				"%s: the DNS server of the mesh answers on port %d instead, and the data plane leads to it what is sent to %s:%d; to have it on port %[4]d, make that process listen on single addresses, and start the agent anew",
				who, port, at, lb.DNSPort)})
		}
	}
	slices.SortFunc(ps, func(x, y model.Problem) int { return cmp.Compare(x.Object, y.Object) })
	return holdersPeriod, ps
}

// of says who has port 53 of an address: "dnsmasq (pid 123) listens on 0.0.0.0:53/udp and 0.0.0.0:53/tcp".
func (h *portHolders) of(a netip.Addr) string {
	if h.err != nil {
		return fmt.Sprintf("another process has the port (who, is not known: %v)", h.err)
	}
	var order []string
	where := map[string][]string{}
	for _, l := range h.listeners {
		if at := l.Addr.Addr(); at != a && !at.IsUnspecified() {
			continue
		}
		who := cmp.Or(h.names[l.Inode], "another process")
		if where[who] == nil {
			order = append(order, who)
		}
		where[who] = append(where[who], fmt.Sprintf("%s/%s", l.Addr, l.Protocol))
	}
	var all []string
	for _, who := range order {
		slices.Sort(where[who])
		all = append(all, who+" listens on "+strings.Join(slices.Compact(where[who]), " and "))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
