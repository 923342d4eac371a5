package ingress

import (
	"net/netip"

	"shoal/kernel/ipset"
)

// The link between the host and the sandbox. Its addresses are the same on
// every host and leave none: what goes further is sent from others.
const (
	hostDev    = "shoal-ingress" // on the host
	sandboxDev = "eth0"          // in the sandbox
)

var (
	linkNet     = netip.MustParsePrefix("169.254.83.0/31") // two addresses and no more (RFC 3021)
	hostAddr    = netip.MustParseAddr("169.254.83.0")
	sandboxAddr = netip.MustParseAddr("169.254.83.1")
)

// Marks of packets and connections on the host: 0x54 and the number of the
// host whose sandbox is meant; 0 for our own. The bits between are left to
// others.
const (
	markOurs uint32 = 0x54000000
	markMask uint32 = 0xff00ffff // of all that is ours
	kindMask uint32 = 0xff000000 // of what makes it ours
)

// rulePriority is that of the routing rules by mark, before the main table and
// after the local one. Each mark's table has the number of the mark.
const rulePriority = 540

// routeProtocol tells the routes made here from all others ("proto 84" in ip
// route); fabric, which removes those of its own that no host needs, has 83.
const routeProtocol = 84

// maxElem is the most entries of a set: the kernel's 65536 are fewer than
// there are ports.
const maxElem = 1 << 20

// The sets of the host, and those of the sandbox. SCTP is why published ports
// are in a hash: a bitmap:port sees TCP and UDP only (ip_set_getport.c,
// ip_set_get_ip_port).
var (
	setPublished = ipset.Set{Name: "SHOAL-IN-PUBLISHED", Type: "hash:net,port", MaxElem: maxElem}        // ports that the host redirects
	setTargets   = ipset.Set{Name: "SHOAL-IN-TARGETS", Type: "hash:ip,port", MaxElem: maxElem}           // where this host's tasks are reached
	setInside    = ipset.Set{Name: "SHOAL-IN-INSIDE", Type: "hash:net", MaxElem: maxElem}                // hosts' addresses, containers' networks
	setPorts     = ipset.Set{Name: "SHOAL-IN-PORTS", Type: "hash:ip,port", Mark: true, MaxElem: maxElem} // sandbox: port -> mark
	setClients   = ipset.Set{Name: "SHOAL-IN-CLIENTS", Type: "hash:net", MaxElem: maxElem}               // sandbox: as setInside, and the host on its link

	// in the order in which entries go in; they come out in the reverse one
	hostSets    = []ipset.Set{setInside, setTargets, setPublished}
	sandboxSets = []ipset.Set{setClients, setPorts}
)

// every is every address: a set takes no network of length 0, but two halves.
var every = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1")}

// entries is what a set holds: entry -> mark.
type entries map[ipset.Entry]uint32
