package firewall

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is what the mesh sends and receives on this host.
type Host struct {
	Link     string       // the device of its own address; "": not known
	Self     netip.Addr   // its own address
	Pool     netip.Prefix // of VIPs
	DNS      netip.Addr   // the VIP of the DNS server
	Own      netip.Prefix // of the mesh's containers here; zero: none yet
	Server   netip.Addr   // where other hosts ask the DNS server
	Bridges  []Bridge     // of this host's containers
	Sandbox  string       // the device that leads there; "": there is none
	Peers    []Peer       // by address
	TCP, UDP []uint16     // ports of the agent, for other hosts

	Indexes map[string]uint32 // numbers of devices
}

// Bridge is a bridge, and the network on it.
type Bridge struct {
	Device string
	Net    netip.Prefix
	Mesh   bool // it is the mesh's
}

// Peer is another host.
type Peer struct {
	Name   string
	Addr   netip.Addr
	Net    netip.Prefix // of its containers; zero: none yet
	Device string       // that leads to them
}

// Flow is a packet that the mesh needs, and what of it stops without.
type Flow struct {
	Hook   string
	What   string   // "names for containers", …
	Packet Packet   //
	Rules  []string // matches of nft(8), by which a rule would let all of its kind pass
	Rich   []string // options of firewall-cmd(1) that do; none: shoal itself tells firewalld
}

// sample is an address of a network that nobody has given out: what a packet is
// from, or to.
func sample(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr()
	for range min(200, 1<<max(0, 31-p.Bits())) {
		a = a.Next()
	}
	return a
}

// Flows are what the mesh needs on the host.
func (h *Host) Flows() (all []Flow) {
	var inside []string
	for _, b := range h.Bridges {
		inside = append(inside, fmt.Sprintf("%q", b.Device))
	}
	fromBridges := "iifname " + oneOf(inside)
	for _, b := range h.Bridges {
		dns := Packet{In: b.Device, Src: sample(b.Net), Dst: h.DNS, Protocol: unix.IPPROTO_UDP, Port: 53, Local: true}
		vip := Packet{In: b.Device, Src: sample(b.Net), Dst: sample(h.Pool), Protocol: unix.IPPROTO_TCP, Port: 80, Local: true}
		rules := []string{fmt.Sprintf("%s ip daddr %s", fromBridges, h.Pool)}
		if h.DNS.IsValid() {
			all = append(all, Flow{Hook: "input", What: "names for containers", Packet: dns, Rules: rules})
		}
		all = append(all, Flow{Hook: "input", What: "VIPs for containers", Packet: vip, Rules: rules})
	}
	mesh := ""
	for _, b := range h.Bridges {
		if b.Mesh {
			mesh = b.Device
		}
	}
	if mesh != "" && h.Own.IsValid() {
		in := Packet{In: h.Link, Out: mesh, Src: h.Self, Dst: sample(h.Own), Protocol: unix.IPPROTO_TCP, Port: 80, DNAT: true}
		rules := []string{fmt.Sprintf("oifname %q", mesh)}
		if h.Sandbox != "" {
			in.Out, in.Dst = h.Sandbox, netip.Addr{}
			out := Packet{In: h.Sandbox, Out: mesh, Src: h.Self, Dst: sample(h.Own), Protocol: unix.IPPROTO_TCP, Port: 80}
			rules = append(rules, fmt.Sprintf("oifname %q", h.Sandbox))
			all = append(all, Flow{Hook: "forward", What: "published ports", Packet: out, Rules: rules})
		}
		if in.Dst.IsValid() {
			all = append(all, Flow{Hook: "forward", What: "published ports", Packet: in, Rules: rules})
		}
	}
	all = append(all, h.between(mesh)...)
	for i := range all {
		p := &all[i].Packet
		p.InIndex, p.OutIndex = h.Indexes[p.In], h.Indexes[p.Out]
	}
	return all
}

// between are the flows between this host and others.
func (h *Host) between(mesh string) (all []Flow) {
	var peers, nets []string
	for _, p := range h.Peers {
		peers = append(peers, p.Addr.String())
		if p.Net.IsValid() {
			nets = append(nets, p.Net.String())
		}
	}
	ports := func(proto string, list []uint16, number uint8) {
		var words []string
		for _, p := range list {
			words = append(words, fmt.Sprint(p))
		}
		for _, peer := range h.Peers {
			for _, p := range list {
				f := Flow{
					Hook: "input", What: "the agents of other hosts", Rules: []string{fmt.Sprintf("ip saddr %s %s dport %s", oneOf(peers), proto, oneOf(words))},
					Packet: Packet{In: h.Link, Src: peer.Addr, Dst: h.Self, Protocol: number, Port: p, Local: true},
				}
				for _, a := range peers {
					for _, w := range words {
						f.Rich = append(f.Rich, fmt.Sprintf(`--add-rich-rule='rule family="ipv4" source address="%s" port port="%s" protocol="%s" accept'`, a, w, proto))
					}
				}
				all = append(all, f)
			}
		}
	}
	ports("tcp", h.TCP, unix.IPPROTO_TCP)
	ports("udp", h.UDP, unix.IPPROTO_UDP)
	if mesh == "" || !h.Own.IsValid() {
		return all
	}
	for _, p := range h.Peers {
		if !p.Net.IsValid() || p.Device == "" {
			continue
		}
		device := "iifname " + fmt.Sprintf("%q", p.Device)
		if h.Server.IsValid() {
			f := Flow{
				Hook: "input", What: "names for other hosts' containers", Rules: []string{fmt.Sprintf("ip saddr %s ip daddr %s udp dport 53", oneOf(append(slices.Clone(peers), nets...)), h.Server)},
				Packet: Packet{In: p.Device, Src: sample(p.Net), Dst: h.Server, Protocol: unix.IPPROTO_UDP, Port: 53, Local: true},
			}
			for _, a := range append(slices.Clone(peers), nets...) {
				f.Rich = append(f.Rich, fmt.Sprintf(`--add-rich-rule='rule family="ipv4" source address="%s" service name="dns" accept'`, a))
			}
			all = append(all, f)
		}
		all = append(all,
			Flow{Hook: "forward", What: "containers of other hosts", Rules: []string{fmt.Sprintf("%s oifname %q", device, mesh)},
				Packet: Packet{In: p.Device, Out: mesh, Src: sample(p.Net), Dst: sample(h.Own), Protocol: unix.IPPROTO_TCP, Port: 80}},
			Flow{Hook: "forward", What: "containers of other hosts", Rules: []string{fmt.Sprintf("iifname %q oifname %q", mesh, p.Device)},
				Packet: Packet{In: mesh, Out: p.Device, Src: sample(h.Own), Dst: sample(p.Net), Protocol: unix.IPPROTO_TCP, Port: 80}})
	}
	return all
}

func oneOf(words []string) string {
	words = slices.Clone(words)
	slices.Sort(words)
	words = slices.Compact(words)
	if len(words) == 1 {
		return words[0]
	}
	return "{ " + strings.Join(words, ", ") + " }"
}

// Finding is a base chain that drops some of what the mesh needs.
type Finding struct {
	Family, Table, Chain string
	By                   []string // what drops it: its policy, a rule of some chain
	What                 []string // that stops
	Add                  []string // commands that mend it
}

// Object names the chain as nft(8) does.
func (f *Finding) Object() string { return fmt.Sprintf("%s %s %s", f.Family, f.Table, f.Chain) }

// Reason says what is wrong, and what to do.
func (f *Finding) Reason() string {
	where := "and keep that in the file that makes the table"
	if f.Table == firewalld {
		where = "and then run firewall-cmd --reload (rich rules need --zone=ZONE where the network card is in another zone than the default one)"
	}
	return fmt.Sprintf("the chain %s of the table %s %s drops what is needed for %s (by %s): run on this host `%s`, %s",
		f.Chain, f.Family, f.Table, strings.Join(f.What, ", "), strings.Join(f.By, ", "), strings.Join(f.Add, "; "), where)
}

// firewalld and the engine have tables of their own, in which nobody else's
// rules last.
const (
	firewalld = "firewalld"
	engine    = "docker-bridges"
)

// Find leads what the mesh needs through the tables of others. The engine's own
// is not looked at: it is told in another way what passes.
func Find(tables []*Table, flows []Flow) (all []Finding) {
	for _, t := range tables {
		if t.Family == "ip" && t.Name == engine {
			continue
		}
		for _, c := range t.bases() {
			f := Finding{Family: t.Family, Table: t.Name, Chain: c.Name}
			for _, flow := range flows {
				if flow.Hook != c.Hook {
					continue
				}
				by := t.walk(c, &flow.Packet)
				if by == "" {
					continue
				}
				f.By, f.What = append(f.By, by), append(f.What, flow.What)
				for _, r := range flow.Rules {
					if t.Name != firewalld {
						f.Add = append(f.Add, fmt.Sprintf("nft insert rule %s %s %s %s accept", t.Family, t.Name, c.Name, r))
					}
				}
				if t.Name == firewalld {
					for _, r := range flow.Rich {
						f.Add = append(f.Add, "firewall-cmd --permanent "+r)
					}
					if len(flow.Rich) == 0 {
						f.Add = append(f.Add, deviceToZone(flow))
					}
				}
			}
			if len(f.What) == 0 {
				continue
			}
			for _, list := range []*[]string{&f.By, &f.What, &f.Add} {
				slices.Sort(*list)
				*list = slices.Compact(*list)
			}
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b Finding) int { return cmp.Compare(a.Object(), b.Object()) })
	return all
}

// deviceToZone puts by hand what shoal puts there where it reaches firewalld.
func deviceToZone(f Flow) string {
	device := f.Packet.In
	if f.Hook == "forward" && f.Packet.Out != "" {
		device = f.Packet.Out
	}
	return "firewall-cmd --permanent --zone=docker --change-interface=" + device
}

// EngineDrops tells which of these bridges the engine's own table drops packets
// to, that containers of the mesh and published ports send there.
func EngineDrops(tables []*Table, h *Host, bridges []Bridge) (dropped []string) {
	for _, t := range tables {
		if t.Family != "ip" || t.Name != engine {
			continue
		}
		for _, b := range bridges {
			p := Packet{In: h.Link, Out: b.Device, Src: h.Self, Dst: sample(b.Net), Protocol: unix.IPPROTO_TCP, Port: 80, DNAT: true}
			if slices.ContainsFunc(t.bases(), func(c *Chain) bool { return c.Hook == "forward" && t.walk(c, &p) != "" }) {
				dropped = append(dropped, b.Device)
			}
		}
	}
	return dropped
}
