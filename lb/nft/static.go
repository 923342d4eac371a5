package nft

import (
	"fmt"
	"net/netip"
	"reflect"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"shoal/lb"
	"shoal/model"
)

// passBit is set in a packet's mark from just before the rules of iptables in
// one hook to just after them, if the packet is to pass: a drop of theirs is
// final, and nothing here could undo it. The rules of accept.go look at it. What
// comes with the bit from elsewhere loses it before they do.
const passBit uint32 = 0x00800000

// Where the chains stand: just before and after those of iptables, at the
// priorities of enum nf_ip_hook_priorities.
const (
	beforeRaw    = -302
	hideRaw      = -301
	showRaw      = -299
	afterRaw     = -298
	afterMangle  = -149
	beforeDNAT   = -101
	beforeFilter = -1
	afterFilter  = 1
	beforeSNAT   = 99
)

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// tunnelDevices begins the names of all tunnel devices of the fabric.
const tunnelDevices = "shoal."

// surroundings is what the rules depend on beside frontends.
type surroundings struct {
	opts    lb.PlaneOptions
	base    *lb.Base
	between lb.Between
	told    bool // what passes between hosts; else it is as the kernel has it
	engine  bool // the engine's rules are in nftables: see engine.go
	zoned   bool // the kernel has conntrack zones: see zone.go
}

// ofBetween are the sets, and of the chains those, that depend on what passes
// between hosts.
var ofBetween = struct {
	sets   []*set
	chains map[string]bool
}{[]*set{links, remote, hosts, hostAddrs}, map[string]bool{"raw": true, "nat-post": true, "input": true, "forward": true}}

// server is where this host's DNS server answers other hosts; zero: nowhere.
func (w *surroundings) server() netip.Addr {
	if !w.opts.DNSPeers.IsValid() {
		return netip.Addr{}
	}
	return model.PlanOf(w.base.Self.Subnet).DNS
}

// chains are all but the balancers. Their number grows with the hosts of the
// cluster by the two chains that each has; not with services, tasks or ports.
func (w *surroundings) chains() []chain {
	all := []chain{
		{name: "pass", rules: []rule{on("past the rules of iptables", setPacketMark(passBit, passBit))}},
		{name: "refuse", rules: refusal},
		{name: "published", rules: published},
		{name: "vip", rules: append(w.otherPort(w.opts.DNS), vip...)},
		{name: "vip-in", rules: []rule{
			on("VIPs are for this host and its containers", notIn(byDevice, bridges), keepDest),
			on("choose a service", goTo("vip")),
		}},
		{name: "pool", rules: w.pool()},
		{name: "agent", rules: w.guard()},
		{name: "peers", rules: []rule{
			on("inside IP in IP", marked(packetMark, lb.ConnMark, lb.MarkKind), goTo("pass")),
			on("on the link", in(ethSource, macs), goTo("pass")),
			rest,
		}},
		{name: "zone", rules: w.zones()},
		{name: "recognise", rules: []rule{
			on("inside IP in IP", marked(packetMark, lb.ConnMark, lb.MarkKind), packetMark(r0), mask(r0, lb.MarkMask), lookUp(r0, origins, 0)),
			on("on the link", ethSource(r0), lookUp(r0, senders, 0)),
		}},
		{name: "resting", rules: []rule{
			on("a sender of datagrams may never pause", equal(protocol, []byte{unix.IPPROTO_UDP}), goTo("refuse")),
			on("a connection of before does not let in a new one", equal(protocol, []byte{unix.IPPROTO_TCP}), masked(expr.CmpOpEq, tcpFlags, []byte{tcpSYN | tcpACK}, []byte{tcpSYN}), goTo("refuse")),
			on("new connections", lacks(ctState, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), goTo("refuse")),
		}},
		{name: "published-source", rules: []rule{
			on("this host knows its own addresses", equal(outDevice, name16("lo")), accept),
			on("its host would answer a client inside the cluster directly", in(source, inside), masquerade),
			on("and nobody this host's own addresses, 127.0.0.1 among them", addressType(true, r0), isLocal, masquerade),
			on("any other client keeps its address", keepSource),
		}},
	}
	for _, p := range w.base.Peers {
		n := uint32(p.Number)
		all = append(all,
			chain{name: originOf(p), rules: []rule{on("from "+p.Name, setConnMark(lb.ConnMark|n, lb.MarkMask))}},
			chain{name: replyTo(p), rules: []rule{on("back by "+p.Name, setPacketMark(lb.PacketMark|n, lb.MarkMask))}})
	}
	return append(all, w.hooks()...)
}

func originOf(p lb.Peer) string { return fmt.Sprintf("from-%d", p.Number) }
func replyTo(p lb.Peer) string  { return fmt.Sprintf("reply-%d", p.Number) }

// hooks are the chains that the kernel calls.
func (w *surroundings) hooks() []chain {
	filter, nat := nftables.ChainTypeFilter, nftables.ChainTypeNAT
	pre, input, forward := nftables.ChainHookPrerouting, nftables.ChainHookInput, nftables.ChainHookForward
	output, post := nftables.ChainHookOutput, nftables.ChainHookPostrouting
	done := []rule{on("nothing is to see it further on", has(packetMark, passBit), setPacketMark(0, passBit))}
	all := []chain{
		{"raw", pre, filter, beforeRaw, w.raw()},
		{"raw-done", pre, filter, afterRaw, done},
		{"mark-in", pre, filter, afterMangle, markIn},
		{"mark-out", output, nftables.ChainTypeRoute, afterMangle, []rule{replyMark}},
		{"mark-post", post, filter, afterMangle, []rule{
			on("a tunnel's own packets go by the routes", outDevice(r0), does{&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: []byte(tunnelDevices)}}, setPacketMark(0, ^uint32(0))),
			on("routed", marked(packetMark, lb.PacketMark, lb.MarkKind), setPacketMark(0, lb.MarkMask)),
		}},
		{"nat-in", pre, nat, beforeDNAT, append(w.otherPort(w.server()),
			on("to a VIP", within(dest, w.opts.Pool), goTo("vip-in")),
			on("to this host", outsideOf(dest, loopback), addressType(false, r0), isLocal, goTo("published")),
		)},
		{"nat-out", output, nat, beforeDNAT, append(w.otherPort(w.server()),
			on("to a VIP", within(dest, w.opts.Pool), goTo("vip")),
			on("to this host", addressType(false, r0), isLocal, goTo("published")),
		)},
		{"nat-post", post, nat, beforeSNAT, w.natPost()},
		{"nat-input", input, nat, beforeSNAT, w.natInput()},
		{"input", input, filter, beforeFilter, w.input()},
		{"input-done", input, filter, afterFilter, done},
		{"forward", forward, filter, beforeFilter, w.forward()},
		{"forward-done", forward, filter, afterFilter, done},
		{"output", output, filter, beforeFilter, w.output()},
		{"output-done", output, filter, afterFilter, done},
	}
	if w.engine {
		all = append(all, pastEngine(pre, filter)...)
	}
	return all
}

var isLocal = does{&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: u32(unix.RTN_LOCAL)}}

func mask(reg, m uint32) does {
	return does{&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: u32(m), Xor: u32(0)}}
}

// choose finds the balancer of a frontend whose key is in the registers.
func choose(reg uint32) does {
	return append(append(lookUp(reg, services, r4), visible(r4)...), lookUp(r4, balancers, 0)...)
}

var (
	// vip chooses for what this host and its containers send to the pool. What is
	// no service keeps its destination: Docker's rules for published ports (-p)
	// take every address that is local to the host, which VIPs are.
	vip = []rule{
		on("a named port", frontendOf(r1), choose(r1)),
		on("every other port", dest(r1), protocol(r2), value(r3, be16(0)), choose(r1)),
		on("no service", keepDest),
	}
	published = []rule{
		on("on one address", frontendOf(r1), choose(r1)),
		on("on every address", value(r1, everyAddress), protocol(r2), toPort(r3), choose(r1)),
	}
	// refusal. An unreachable port is to the kernel's SCTP only a hint, after which
	// it goes on trying; an unreachable protocol ends the association (RFC 9260,
	// section 10).
	refusal = []rule{
		on("refuse TCP", equal(protocol, []byte{unix.IPPROTO_TCP}), reject(unix.NFT_REJECT_TCP_RST, 0)),
		on("refuse SCTP", equal(protocol, []byte{unix.IPPROTO_SCTP}), reject(unix.NFT_REJECT_ICMP_UNREACH, icmpProtUnreach)),
		on("refuse", reject(unix.NFT_REJECT_ICMP_UNREACH, icmpPortUnreach)),
	}

	// replyMark leads a reply back by the host that the client talked to.
	replyMark = on("a reply to a connection that came by another host", isReply,
		marked(connMark, lb.ConnMark, lb.MarkKind), connMark(r0), mask(r0, lb.MarkMask), lookUp(r0, replies, 0))

	// markIn: a connection remembers by which host's published port it came, by its
	// latest packet. Those between containers are left alone.
	markIn = []rule{
		replyMark,
		on("from another host's published port", isRequest, in(frontendOf, targets), notIn(source, inside), jump("recognise")),
		on("likewise to an address that rests, for the refusal's way back", isRequest, in(dest, resting), notIn(source, inside), jump("recognise")),
		on("recognised", marked(packetMark, lb.ConnMark, lb.MarkKind), setPacketMark(0, lb.MarkMask)),
		on("IP in IP has no Ethernet addresses: what is inside inherits the mark", equal(protocol, []byte{unix.IPPROTO_IPIP}),
			source(r0), lookUp(r0, outers, r0), does{&expr.Meta{Key: expr.MetaKeyMARK, Register: r0, SourceRegister: true}}),
	}

	// Connections that pass, both ways.
	toTargets = []rule{
		on("from other hosts' published ports, in the name of clients inside", in(frontendOf, targets), in(source, inside), goTo("pass")),
		on("and the replies", isReply, in(senderOf, targets), in(dest, inside), goTo("pass")),
	}
	ofMesh = on("connections of published ports", marked(connMark, lb.ConnMark, lb.MarkKind), goTo("pass"))

	// toResting finds what other hosts send to an address that a task has just left.
	// They may mean that task, and somebody else may have the address by now. What
	// this host redirects itself is for who has it, and so is what its containers
	// send. Of connections of before the kernel that has the address now knows
	// nothing, and says so; but datagrams it would take. Behind a dropped packet the
	// client would try again, until the rest is over: so it is refused.
	toResting = on("to an address that rests", in(dest, resting), notIn(byDevice, bridges), isRequest, lacks(ctStatus, statusDNAT), jump("resting"))

	rest = on("the bit is nobody else's", has(packetMark, passBit), setPacketMark(0, passBit))
)

// Codes of ICMP's "destination unreachable" (RFC 792).
const (
	icmpUnreachable = 3
	icmpProtUnreach = 2
	icmpPortUnreach = 3
	icmpEcho        = 8
)

// toService matches the packets of connections to VIPs, both ways. Only what may
// use a VIP gets its destination changed.
func (w *surroundings) toService() rule {
	return on("connections to VIPs", within(originalDest, w.opts.Pool), has(ctStatus, statusDNAT), goTo("pass"))
}

// fromHosts matches what other hosts' containers send to this one's, by the
// device that leads to them.
func (w *surroundings) fromHosts() (rs []rule) {
	if own := w.between.Own; own.IsValid() {
		rs = append(rs, on("from other hosts' containers", within(dest, own), outsideOf(source, own), in(byDevice, links), goTo("pass")))
	}
	return rs
}

// raw: engines from 28 on drop here what comes to a container's address from
// elsewhere than its own bridge. That hits packets between bridges, the reply of
// a task on one bridge to a client on another, and whatever other hosts send.
// And a connection of this host to its own 127.0.0.1 is let out of the host,
// which needs the kernel's route_localnet: without the first rules, whoever is
// on a link could reach what listens on 127.0.0.1.
func (w *surroundings) raw() []rule {
	elsewhere := not(inDevice, name16("lo"))
	rs := []rule{
		on("nobody else reaches 127.0.0.1", within(dest, loopback), elsewhere, drop),
		on("and nobody else is", within(source, loopback), elsewhere, drop),
	}
	for _, t := range w.between.Tunnels {
		rs = append(rs, on("nobody sends into a tunnel in a host's name but that host", outerOf(t), in(source, hosts), in(dest, hosts), astray, drop))
	}
	rs = append(rs,
		on("what comes by another host's published port is told apart by that host", in(frontendOf, targets), notIn(source, inside), jump("zone")),
		on("and so are errors about it", equal(protocol, []byte{unix.IPPROTO_ICMP}), in(dest, local), notIn(source, inside), jump("zone")),
		on("this host's containers to its tasks", in(dest, local), in(byDevice, bridges), goTo("pass")),
		on("this host's tasks to anybody", in(source, local), in(byDevice, bridges), goTo("pass")),
	)
	rs = append(rs, w.fromHosts()...)
	return append(rs,
		on("to an address that rests, to be refused", in(dest, resting), notIn(byDevice, bridges), goTo("pass")),
		on("other hosts' published ports to its tasks", in(frontendOf, targets), goTo("peers")), rest)
}

// zones are those of the hosts that connections come by.
func (w *surroundings) zones() []rule {
	if !w.zoned {
		return nil
	}
	return []rule{
		on("inside IP in IP", marked(packetMark, lb.ConnMark, lb.MarkKind), packetMark(r0), mask(r0, lb.MarkMask), lookUp(r0, inners, r0), setZone(r0)),
		on("on the link", ethSource(r0), lookUp(r0, zones, r0), setZone(r0)),
	}
}

// natPost says who keeps its address. Docker would masquerade what leaves its
// bridge. To tasks of other hosts it must, as those have no route to this host's
// other networks; only the mesh's own is theirs to answer to.
func (w *surroundings) natPost() []rule {
	both := func(r uint32) does { return append(source(r), dest(r+1)...) }
	rs := []rule{
		on("a task that reaches itself would answer itself directly", in(both, hairpin), masquerade),
		on("by a published port of this host", marked(connMark, lb.ConnMark, lb.MarkMask), has(ctStatus, statusDNAT), goTo("published-source")),
		on("by one of another host", marked(connMark, lb.ConnMark, lb.MarkKind), keepSource),
		on("containers of this host to its tasks", in(source, nets), in(dest, local), keepSource),
	}
	if own := w.between.Own; own.IsValid() {
		rs = append(rs,
			on("containers to other hosts' containers", within(source, own), in(dest, remote), keepSource),
			on("what this host sends into a tunnel comes back if it is from its subnet", outsideOf(source, own),
				outDevice(r0), does{&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: []byte(tunnelDevices)}}, addressType(true, r0), isLocal, masquerade))
	}
	return rs
}

// natInput is for what a published port leads to a process of this host. It
// answers a datagram from whichever of the host's addresses is nearest to the
// client: known there is only the one that the datagram went to. The route of the
// pool says that one, so such a client is given an address of the pool. To
// clients outside the host has one address.
func (w *surroundings) natInput() []rule {
	self := w.base.Self.Addr
	if !self.Is4() {
		return nil
	}
	published := does{}
	for _, part := range []does{equal(protocol, []byte{unix.IPPROTO_UDP}), marked(connMark, lb.ConnMark, lb.MarkMask), has(ctStatus, statusDNAT), equal(dest, self.AsSlice())} {
		published = append(published, part...)
	}
	answerable := append(value(r0, w.opts.Pool.Addr().AsSlice()), &expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: r0})
	return []rule{
		on("clients inside are answered from this host's address", published, in(source, inside), answerable),
		on("and its own 127.0.0.1", published, within(source, loopback), answerable),
	}
}

// pool is for what is sent to an address of the pool and reaches this host's own
// input: it is no service, or nobody who may use one.
func (w *surroundings) pool() []rule {
	rs := []rule{
		on("VIPs are for this host and its containers", not(inDevice, name16("lo")), notIn(byDevice, bridges), reject(unix.NFT_REJECT_ICMP_UNREACH, icmpPortUnreach)),
		on("ping of a live VIP", equal(protocol, []byte{unix.IPPROTO_ICMP}), equal(icmpType, []byte{icmpEcho}), in(dest, vips), goTo("pass")),
		on("errors about connections", equal(protocol, []byte{unix.IPPROTO_ICMP}), has(ctState, expr.CtStateBitRELATED), goTo("pass")),
	}
	if w.opts.DNS.IsValid() {
		rs = append(rs, w.dnsTo(w.opts.DNS)...)
	}
	return append(rs, on("no service", goTo("refuse")))
}

// otherPort leads what is sent to port 53 of an address to the port where the
// DNS server answers: 53 is somebody else's.
func (w *surroundings) otherPort(a netip.Addr) (rs []rule) {
	port := w.base.DNSPort(a)
	if port == lb.DNSPort {
		return nil
	}
	for _, p := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		rs = append(rs, on("DNS, whose port is another's here", equal(dest, a.AsSlice()), equal(protocol, []byte{p}), equal(toPort, be16(lb.DNSPort)),
			value(r1, a.AsSlice()), value(r2, be16(port)), dnat(r1, r2)))
	}
	return rs
}

// dnsTo lets questions to a server's address in; more says from whom.
func (w *surroundings) dnsTo(a netip.Addr, more ...does) (rs []rule) {
	for _, p := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		parts := append([]does{equal(dest, a.AsSlice()), equal(protocol, []byte{p}), equal(toPort, be16(w.base.DNSPort(a)))}, more...)
		rs = append(rs, on("DNS", append(parts, goTo("pass"))...))
	}
	return rs
}

func (w *surroundings) input() []rule {
	rs := []rule{
		on("what is no service", within(dest, w.opts.Pool), goTo("pool")),
	}
	rs = append(rs, w.toAgent()...)
	for _, t := range w.between.Tunnels {
		rs = append(rs,
			on("tunnels of hosts of the cluster", outerOf(t), in(source, hosts), goTo("pass")),
			on("and of nobody else", outerOf(t), drop))
	}
	// Other hosts' containers, and the hosts, reach this host's DNS server by the
	// address of the mesh's bridge.
	if server := w.server(); server.IsValid() {
		rs = append(rs, w.dnsTo(server, in(source, cluster))...)
	}
	isNew := has(ctState, expr.CtStateBitNEW)
	rs = append(rs,
		on("a published port without a live task", isNew, in(frontendOf, refused), goTo("refuse")),
		on("on every address", isNew, value(r0, everyAddress), protocol(r1), toPort(r2), does{&expr.Lookup{SourceRegister: r0, SetName: refused.name}}, goTo("refuse")),
		w.toService(), ofMesh)
	return append(append(rs, toTargets...), rest)
}

func (w *surroundings) output() (rs []rule) {
	// While the agent is away nobody listens for DNS. A resolver that is told so
	// goes on to the next server at once (Docker's own otherwise waits for four
	// seconds); but where there is no other server it may give up, and one that
	// hears nothing asks again.
	if w.base.Alone {
		for _, a := range []netip.Addr{w.opts.DNS, w.opts.DNSPeers, w.server()} {
			if a.IsValid() {
				rs = append(rs, on("no other DNS server could answer", equal(source, a.AsSlice()), equal(protocol, []byte{unix.IPPROTO_ICMP}),
					equal(icmpType, []byte{icmpUnreachable}), equal(icmpCode, []byte{icmpPortUnreach}), has(ctState, expr.CtStateBitRELATED),
					equal(func(r uint32) does { return ct(expr.CtKeyPROTOCOL, r) }, []byte{unix.IPPROTO_UDP}),
					equal(func(r uint32) does { return ct(expr.CtKeyPROTODST, r) }, be16(lb.DNSPort)), drop))
			}
		}
	}
	rs = append(rs,
		// It comes back over lo and is refused there: refused here, a datagram's
		// sender would see EPERM, not ECONNREFUSED.
		on("what is no service", within(dest, w.opts.Pool), goTo("pass")),
		w.toService(), ofMesh)
	return append(append(rs, toTargets...), rest)
}

// forward lets replies of tasks pass, to other bridges and other hosts; and what
// this host's containers send to tasks on its other bridges, by their own
// addresses (tasks.NAME, dnsrr). Connections that a task makes elsewhere, and
// those that others make to a task, stay under Docker's and the user's rules.
func (w *surroundings) forward() []rule {
	rs := append(fromContainers(&w.base.Guard), w.inOthersName()...)
	rs = append(rs, []rule{
		toResting,
		on("a packet that belongs to no connection would reach the client from a stranger", has(ctState, expr.CtStateBitINVALID), in(source, tasks), drop),
		w.toService(), ofMesh,
		on("replies of tasks", isReply, in(source, tasks), goTo("pass")),
		on("this host's containers to its tasks", in(dest, local), in(byDevice, bridges), goTo("pass")),
	}...)
	if own := w.between.Own; own.IsValid() {
		rs = append(rs, on("other hosts themselves, and their other bridges, use tasks", within(dest, own), in(source, hostAddrs), notIn(dest, local),
			has(ctState, expr.CtStateBitNEW), drop))
	}
	rs = append(rs, w.fromHosts()...)
	if own := w.between.Own; own.IsValid() {
		rs = append(rs, on("to other hosts' containers", within(source, own), in(byDevice, links), in(dest, remote), goTo("pass")))
	}
	rs = append(rs, toTargets...)
	return append(append(rs, w.closed()...), rest)
}

// inOthersName drops what a container sends to another host in the name of a host or of
// another container. That host could not tell: the engine masquerades what a container
// sends into a tunnel with this host's address, and where reverse paths are not checked
// a container may send from any address.
func (w *surroundings) inOthersName() (rs []rule) {
	for _, t := range w.between.Tunnels {
		rs = append(rs, on("only hosts send into another host's tunnel", outerOf(t), in(dest, hosts), notIn(source, hosts), drop))
	}
	begun := lacks(ctState, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	if own := w.between.Own; own.IsValid() {
		rs = append(rs,
			on("only this host's containers speak for themselves", in(dest, remote), within(source, own), notIn(byDevice, links), begun, drop),
			on("and only other hosts' for those", in(dest, remote), in(source, remote), notIn(byDevice, links), begun, drop))
	}
	return rs
}

// outerOf matches the outer packets of a tunnel.
func outerOf(t lb.Tunnel) does {
	outer := equal(protocol, []byte{t.Protocol})
	if t.Port != 0 {
		outer = append(outer, equal(toPort, be16(t.Port))...)
	}
	return outer
}

// closed is for what is sent to the mesh's containers and is none of the above:
// from the link, from other bridges of this host. Whether the engine drops it
// depends on its version, its settings and how it made the network. What the
// engine itself publishes had its destination changed, and stays under its rules.
func (w *surroundings) closed() (rs []rule) {
	if own := w.between.Own; own.IsValid() {
		rs = append(rs, on("the mesh's containers are closed to all others", within(dest, own), notIn(byDevice, links),
			lacks(ctState, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), lacks(ctStatus, statusDNAT), drop))
	}
	return rs
}

func (w *surroundings) equal(o *surroundings) bool { return reflect.DeepEqual(w, o) }
