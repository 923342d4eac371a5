package ipvs

import "net/netip"

// The link between the host and the sandbox. Its addresses are the same on
// every host and leave none: what goes further is sent from others.
const (
	hostDev    = Device // on the host
	sandboxDev = "eth0" // in the sandbox
)

// Device leads from the host to the sandbox.
const Device = "shoal-ingress"

var (
	linkNet     = netip.MustParsePrefix("169.254.83.0/31") // two addresses and no more (RFC 3021)
	hostAddr    = netip.MustParseAddr("169.254.83.0")
	sandboxAddr = netip.MustParseAddr("169.254.83.1")
)

// routeProtocol tells the routes of the mesh from all others ("proto 84" in ip
// route).
const routeProtocol = 84
