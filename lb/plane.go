package lb

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"shoal/model"
	"shoal/reconcile"
)

// DataPlane carries connections as this package decides, in the kernel of one
// network namespace. It is safe for concurrent use; all calls come from threads
// in that namespace.
//
// What a plane has in the kernel outlives it: closing one, or killing its
// process, changes nothing. A new one adopts what it finds, and a restart with
// nothing changed writes nothing.
type DataPlane interface {
	// Name is "ipvs" or "nftables".
	Name() string

	// Scheduler is the one that is used where the named one is asked for: the
	// same, or the nearest that the plane has.
	Scheduler(name string) string

	// Reconcile takes in a change, and makes the kernel as it should be by all
	// changes so far. The first call has all of it. A full pass reads the kernel
	// back and repairs what others changed; any other costs by the change. Where
	// the kernel has very much, a plane may leave a part of it to the full passes
	// that follow. What fails is kept, dated and tried again by later calls; one
	// failure does not stop the others. Of a frontend that goes, nothing is left
	// before one that comes is made.
	Reconcile(ctx context.Context, d Delta, full bool) Result

	// Between has traffic between hosts pass. It is called before the fabric makes
	// the devices and routes of it.
	Between(ctx context.Context, b Between) (changed bool, err error)

	// Redirects tells whether this host takes connections for a published port
	// already, on all of the frontend's addresses.
	Redirects(f *Frontend) bool

	// Inspect reads what the kernel has of a VIP, or, by a key that has none, of
	// a published port. It writes nothing and believes nothing that was written
	// before.
	Inspect(ctx context.Context, k Key) (*View, error)

	// Client reads as whom tasks see a client of a published port that sends to
	// this host from that address.
	Client(addr netip.Addr) (ClientView, error)

	// Held reads what the plane still has to do with a task, by its address.
	Held(task netip.Addr) (Held, error)

	// Stats visits what was counted of each frontend since it was made. It may visit one
	// more than once: the sum counts. Visit does not call the plane or its balancer.
	Stats(visit func(Key, Stats)) error

	// Changed is signalled when the kernel tells that somebody else changed what
	// is the plane's: a full pass is due. Nil: it is not told.
	Changed() <-chan struct{}

	// RepairRoutes puts back the routes and routing rules that passes made and
	// somebody deleted. It waits for no pass, which may be busy with ten thousand
	// services, and makes no route that no pass has made: what must stand before it
	// may not.
	RepairRoutes() error

	// Close closes what it has open; the kernel stays as it is.
	Close()
}

// Delta is what changed since the last one.
type Delta struct {
	Base      *Base                    // nil: as it was
	Frontends map[Key]*Frontend        // nil: it goes
	Endpoints map[netip.Addr]*Endpoint // nil: no task has the address any more

	// Resting are addresses that tasks of this host had until just now. The plane
	// refuses what other hosts, and their containers, newly send there: they may
	// mean the task that left, and somebody else may have the address. This host and
	// its own containers know who has it. False: the address rests no longer.
	Resting map[netip.Addr]bool

	// Withheld are published ports that this host does not take, as somebody else
	// has them here. Other hosts do, and send to the backends of this one: the plane
	// leads their replies back. Nil: it is withheld no longer.
	Withheld map[Key]*Frontend
}

// Empty tells whether nothing changed.
func (d *Delta) Empty() bool {
	return d.Base == nil && len(d.Frontends)+len(d.Endpoints)+len(d.Resting)+len(d.Withheld) == 0
}

// Result is how a pass ended.
type Result struct {
	Next     time.Duration // when to call again for the sake of draining tasks, or of what failed; 0: only with a change
	More     bool          // there is more to do: call again at once, with what has changed meanwhile
	Failures []Failure     // all there are, in order
}

// Object is what can fail by itself: a frontend, or a part of the kernel that
// all of them stand on.
type Object struct {
	Key  Key
	Part string // "iptables", "route", "sysctl net.ipv4.ip_forward", …; "" of a frontend
}

// Compare orders parts of the kernel before frontends.
func (o Object) Compare(p Object) int {
	return cmp.Or(strings.Compare(p.Part, o.Part), o.Key.Compare(p.Key))
}

// Failure is why an object is not as it should be.
type Failure = reconcile.Failure[Object]

// Failures records which objects are not as they should be, for a plane.
type Failures = reconcile.Failures[Object]

// NewFailures makes an empty record, with the times that suit a plane.
func NewFailures() *Failures { return reconcile.NewFailures[Object](firstRetry, lastRetry) }

// Held is what a plane still has to do with a task.
type Held struct {
	Connections int  `json:"connections"` // established, or closed by one end; the others end by themselves
	Open        bool `json:"open"`        // it is given new ones
}

// Add adds what another plane, or host, has to do with the task.
func (h Held) Add(o Held) Held { return Held{h.Connections + o.Connections, h.Open || o.Open} }

// Stats is what was counted of a frontend. A plane that does not count bytes
// leaves them zero.
type Stats struct {
	Connections                              uint64
	Led                                      uint64 // of Connections: those that were led in connect(), past the plane
	PacketsIn, PacketsOut, BytesIn, BytesOut uint64
}

// Add adds what was counted of another frontend.
func (s Stats) Add(o Stats) Stats {
	return Stats{
		Connections: s.Connections + o.Connections, Led: s.Led + o.Led,
		PacketsIn: s.PacketsIn + o.PacketsIn, PacketsOut: s.PacketsOut + o.PacketsOut,
		BytesIn: s.BytesIn + o.BytesIn, BytesOut: s.BytesOut + o.BytesOut,
	}
}

// View is what the kernel has of a VIP, or of a published port.
type View struct {
	Steps  []Step         // what a packet meets before it is balanced, in order
	Fronts []FrontView    // of a VIP: all ports first; of a published port: one, or none if it is not balanced
	On     []netip.Prefix // of a published port: the host's addresses where it is taken
}

// Step is something that a packet meets, with what was seen there.
type Step struct {
	What     string // one word: "VIP", "rules", "sandbox", …
	OK       bool
	Evidence string
}

// FrontView is what the kernel has of a frontend.
type FrontView struct {
	Key       Key
	Open      bool   // new connections are let in
	Steps     []Step // what a packet to this frontend meets, in order
	Scheduler string // "": nothing balances it
	Affinity  time.Duration
	Backends  []BackendView // by address
}

// BackendView is what the kernel has of a backend.
type BackendView struct {
	Addr     netip.AddrPort // port 0: the packet's own
	Weight   int
	Active   int // connections established
	Inactive int // others
}

// ClientView is as whom the tasks behind a published port see a client.
type ClientView struct {
	Kept     bool       // they see its own address, Addr; else that of the device that leads to the task
	Addr     netip.Addr // by which the client is known to the plane
	Evidence string     // the entry of the kernel that says so
}

// Base is what all frontends stand on.
type Base struct {
	Self     model.Node      // this host
	Networks []model.Network // of this host's containers
	Inside   []netip.Prefix  // hosts' addresses and containers' networks, in order: who is inside the cluster
	Cluster  []netip.Prefix  // hosts of the cluster and the subnets of their containers, in order: who may ask this host's DNS server
	Peers    []Peer          // by number
	Alone    bool            // no other host's DNS server could answer for this one's

	// DNSPorts are the ports on which this host's DNS server answers, by address,
	// where port 53 is somebody else's: see [Base.DNSPort].
	DNSPorts map[netip.Addr]uint16

	Guard Guard // of the agents' ports
}

// Peer is another host, whose published ports may lead to tasks of this one.
type Peer struct {
	Name   string
	Number uint16
	Addr   netip.Addr
	Subnet netip.Prefix
	MACs   []model.MAC // its packets come from one of these
}

// PlaneOptions are the settings that every plane takes.
type PlaneOptions struct {
	Pool     netip.Prefix // the VIPs; IPv4
	DNS      netip.Addr   // the address of the pool where this host itself answers DNS; zero: it does not
	DNSPeers netip.Addr   // the address of the pool behind which the other hosts' DNS servers are; zero: none
	Timeouts Timeouts     // how long idle connections are kept; zero: the plane's own defaults
	StateDir string       // where former values of what is the host's are kept; made if missing

	Log *slog.Logger // nil: none
}

// Timeouts are how long a connection may be idle before it is forgotten, in
// whole seconds.
type Timeouts struct {
	TCP    time.Duration
	TCPFin time.Duration // after one end has closed it
	UDP    time.Duration
}
