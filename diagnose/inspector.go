package diagnose

import (
	"context"
	"net/netip"

	"shoal/dnsd"
	"shoal/fabric"
	"shoal/ingress"
	lb "shoal/lb/ipvs"
	"shoal/model"
)

// Inspector explains and traces, from what this host knows and its kernel has.
// Every field must be set.
type Inspector struct {
	Zone string         // of the mesh's names, without a trailing dot
	DNS  netip.AddrPort // where the DNS server answers

	Snapshot func() (*model.Snapshot, error)
	Problems func() []model.Problem
	Engine   func() error // why the engine does not answer; nil: it does

	Names  Names
	VIPs   VIPs
	Ports  Ports
	Routes Routes

	// Peer asks the agent at an address for its part of a trace.
	Peer func(ctx context.Context, agent netip.Addr, q Question) (Part, error)
}

// Names is the DNS server.
type Names interface {
	// Lookup tells what asker would be answered on a name, and why.
	Lookup(name, qtype string, asker netip.Addr) (dnsd.Answer, error)
}

// VIPs is what balances the VIPs.
type VIPs interface {
	// Inspect reads what the kernel has of a VIP.
	Inspect(ctx context.Context, vip netip.Addr) (*lb.View, error)
}

// Ports is the routing mesh.
type Ports interface {
	// Inspect reads what the kernel has of a published port.
	Inspect(ctx context.Context, port uint16, proto model.Protocol) (*ingress.View, error)
	// Client tells as whom a client enters the mesh.
	Client(addr netip.Addr) (*ingress.ClientView, error)
	// Returns tells where replies to each host's mesh go.
	Returns() ([]ingress.ReturnView, error)
}

// Routes is the way to other hosts' containers.
type Routes interface {
	// Inspect reads the kernel's route to an address.
	Inspect(to netip.Addr) (fabric.Hop, error)
}
