package diagnose

import (
	"context"
	"net/netip"

	"shoal/dnsd"
	"shoal/dockerwatch"
	"shoal/fabric"
	"shoal/firewall"
	"shoal/ingress"
	"shoal/lb"
	"shoal/model"
)

// Inspector explains and traces, from what this host knows and its kernel has.
// Every field must be set.
type Inspector struct {
	Zone string         // of the mesh's names, without a trailing dot
	DNS  netip.AddrPort // where the DNS server answers

	MeshNetwork string // the engine's network whose containers other hosts reach
	SocketGroup string // whose processes' connections are led in connect(); "": nobody's
	SocketWhy   string // why nobody's are

	Snapshot func() (*model.Snapshot, error)
	Problems func() []model.Problem
	Firewall func(*model.Snapshot) []model.Problem // reads what firewalls of others drop
	Engine   func() error                          // why the engine does not answer; nil: it does

	Names  Names
	Plane  Plane
	Ports  Ports
	Mesh   Mesh
	Routes Routes

	// Drops finds what firewalls of others drop of packets on this host.
	Drops func([]firewall.Crossing) ([]firewall.Drop, error)
	// Carries tells how large packets are that arrive at another host's containers, and
	// how large those are that containers send, in octets; 0: not known.
	Carries func(ctx context.Context, to model.Node) (arrive, sent int)

	// Look asks this host's engine for the containers that a word may mean.
	Look func(ctx context.Context, what string) ([]dockerwatch.Seen, error)
	// Outside tells whether a process is in no control group whose connections are led.
	Outside func(pid int) (bool, error)

	// Peer asks the agent at an address for its part of a trace.
	Peer func(ctx context.Context, agent netip.Addr, q Question) (Part, error)
	// PeerSight asks the agent at an address what it sees of a word.
	PeerSight func(ctx context.Context, agent netip.Addr, what string) (Sight, error)
}

// Names is the DNS server.
type Names interface {
	// Lookup tells what asker would be answered on a name, and why.
	Lookup(name, qtype string, asker netip.Addr) (dnsd.Answer, error)
}

// Plane is the data plane.
type Plane interface {
	// Name is what the plane is called.
	Name() string
	// Inspect reads what the kernel has of a VIP, or of a published port.
	Inspect(ctx context.Context, k lb.Key) (*lb.View, error)
	// Client reads as whom tasks see a client of a published port.
	Client(addr netip.Addr) (lb.ClientView, error)
}

// Ports is what decides which published ports this host takes.
type Ports interface {
	// Refused is why it does not take one.
	Refused(k lb.Key) error
}

// Mesh is the way between the hosts' published ports and tasks.
type Mesh interface {
	// Returns reads where replies to each host's published ports go.
	Returns() ([]ingress.ReturnView, error)
	// Path reads how a task is reached from this host.
	Path(task netip.Addr) (ingress.PathView, error)
}

// Routes is the way to other hosts' containers.
type Routes interface {
	// Inspect reads the kernel's route to an address.
	Inspect(to netip.Addr) (fabric.Hop, error)
}
