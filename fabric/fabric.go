package fabric

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"shoal/fabric/transport"
	"shoal/fabric/vxlan"
	"shoal/kernel/watch"
	"shoal/model"
	"shoal/reconcile"
)

// RouteProtocol tells the fabric's routes from all others ("proto 83" in ip
// route). Routes of the main table that have it and are not wanted go.
const RouteProtocol = 0x53

// Interest is what of the kernel's notifications concerns the fabric: its
// devices, and its routes.
func Interest() watch.Interest {
	return watch.Interest{
		Devices:   func(name string) bool { return strings.HasPrefix(name, transport.Prefix) },
		Protocols: []uint8{RouteProtocol},
	}
}

// Options are the settings of the fabric. They must be the same on all hosts.
type Options struct {
	Backend Backend // "": [Auto]
	VNI     int     // of vxlan, 1 to 2²⁴-1; 0: [vxlan.DefaultVNI]
	Port    uint16  // of vxlan, UDP; 0: [vxlan.DefaultPort]

	ChecksumOff bool // of vxlan: [vxlan.VXLAN]

	// Prove has [Auto] use host-gw only where [Fabric.Prove], which must run then,
	// has found that the link carries what containers send.
	Prove bool

	Firewall Firewall // nil: there is none to be kept

	Log *slog.Logger // nil: none
}

// Fabric keeps the kernel of one network namespace as Snapshots say. It is safe
// for concurrent use; all calls must come from threads in that namespace.
type Fabric struct {
	opts Options
	log  *slog.Logger

	mu      sync.Mutex
	done    bool         // there was a pass
	last    inputs       // of the last pass
	seen    inputs       // of the last Snapshot
	nodes   []model.Node // which that had
	paths   []path       // of the last pass
	failing *reconcile.Failures[object]
	proofs  map[string]*proof // by peer; nil: nothing is proved

	waken  chan struct{} // there is a proof to be begun
	proved chan struct{} // one has another outcome
	moved  chan struct{} // routes were written
}

// object is what can fail by itself.
type object struct {
	kind, name string // "node" and a host, or "kernel" and a part of it: "firewall", "shoal.vxlan", …
	refused    string // why nothing was tried, where it was not; an object can be refused for several reasons
}

// New checks the settings and makes a Fabric. It changes nothing yet.
func New(o Options) (*Fabric, error) {
	if o.Backend == "" {
		o.Backend = Auto
	}
	if _, err := ParseBackend(string(o.Backend)); err != nil {
		return nil, err
	}
	if o.VNI == 0 {
		o.VNI = vxlan.DefaultVNI
	}
	if o.VNI < 1 || o.VNI >= 1<<24 {
		return nil, fmt.Errorf("VNI %d: use a number from 1 to %d", o.VNI, 1<<24-1)
	}
	if o.Port == 0 {
		o.Port = vxlan.DefaultPort
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	f := &Fabric{
		opts: o, log: o.Log, failing: reconcile.NewFailures[object](firstRetry, lastRetry),
		waken: make(chan struct{}, 1), proved: make(chan struct{}, 1), moved: make(chan struct{}, 1),
	}
	if o.Prove && o.Backend == Auto {
		f.proofs = map[string]*proof{}
	}
	return f, nil
}

// What failed is tried again after these times.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// Reconcile makes the kernel as the Snapshot says. A full pass reads all of it,
// and repairs what others changed; any other does so only if the hosts or this
// host's networks are others than the last time, or what failed then is due. The
// problems are by host. While this host has no subnet nothing is touched.
func (f *Fabric) Reconcile(ctx context.Context, snap *model.Snapshot, full bool) reconcile.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !snap.Self.Subnet.IsValid() {
		return reconcile.Result{}
	}
	in, now := f.inputs(snap), time.Now()
	if !f.done || full || len(f.failing.Due(now)) > 0 || !in.equal(f.last) {
		f.failing.PutAll(f.pass(ctx, in), now)
		f.last, f.done = in, true
	}
	f.noteAlive(snap.Nodes)
	problems := f.failing.Problems(func(o object, err error) model.Problem {
		code := model.KernelWriteFailed
		if o.kind == "node" {
			code = model.HostUnreachable
		}
		return model.Problem{Node: snap.Self.Name, Code: model.CodeOf(err, code), Kind: o.kind, Object: o.name, Reason: err.Error()}
	})
	return reconcile.Result{Again: f.failing.Next(now), Problems: append(problems, f.blocked(snap)...)}
}

// inputs are those of a Snapshot. Where it has the hosts of the one before, nothing
// is copied.
func (f *Fabric) inputs(s *model.Snapshot) inputs {
	self := s.Self
	self.Alive = false
	if !model.Shared(f.nodes, s.Nodes) || !model.Shared(f.seen.networks, s.Networks) || self != f.seen.self {
		f.seen, f.nodes = inputsOf(s), s.Nodes
	}
	return f.seen
}

// pass reads, compares and writes once; what failed.
func (f *Fabric) pass(ctx context.Context, in inputs) map[object]error {
	if !in.self.Subnet.Addr().Is4() {
		return map[object]error{{kind: "node", name: in.self.Name}: fmt.Errorf("this host's subnet %s is not IPv4: only that is carried between hosts", in.self.Subnet)}
	}
	cannot := func(err error) map[object]error {
		return map[object]error{{kind: "kernel", name: "fabric"}: err}
	}
	addrs, err := readAddrs()
	if err != nil {
		return cannot(err)
	}
	tunnels := f.opts.tunnels()
	have, err := read(tunnels)
	if err != nil {
		return cannot(err)
	}
	if f.proofs != nil {
		in.proven = f.proven(have.state)
	}
	want, paths, failed := desired(f.opts, in, addrs)
	f.paths = paths
	f.keepProofs(in.self, paths)
	c := diff(want, have.state)
	a := &applier{tunnels: tunnels, index: have.index, paths: paths, parts: map[string]error{}, peers: map[string]error{}}
	a.part("address of probes", keepProbe(in.self.Probe)) // whatever the backend: [Carried] asks by it too
	// What stood before is put back at once. What is new has to wait until the
	// rules let it pass.
	repair := f.done && in.equal(f.last) && f.failing.Len() == 0
	if repair {
		a.apply(&c)
	}
	ruled := false
	if f.opts.Firewall != nil {
		ruled, err = f.opts.Firewall.Between(ctx, between(f.opts, in, paths))
		a.part("firewall", err)
	}
	if !repair {
		a.apply(&c)
	}
	if !c.empty() || ruled {
		f.log.Info("network between hosts written", "changes", c.String(), "firewall", ruled)
	}
	if len(c.putRoutes)+len(c.dropRoutes) > 0 {
		wake(f.moved)
	}
	for part, err := range a.parts {
		failed[object{kind: "kernel", name: part}] = err
	}
	for peer, err := range a.peers {
		failed[object{kind: "node", name: peer}] = err
	}
	return failed
}
