package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vishvananda/netns"

	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
	"shoal/kernel/sysctl"
	"shoal/model"
	"shoal/virtual"
)

// DefaultNetns is the sandbox: `ip netns exec shoal-ingress ipvsadm -ln` looks
// into it.
const DefaultNetns = "/run/netns/shoal-ingress"

// Options are the settings of an Ingress.
type Options struct {
	Pool     netip.Prefix  // the VIPs, whose ports are none of ours; IPv4
	Netns    string        // where the sandbox has its name; "": [DefaultNetns]
	Timeouts ipvs.Timeouts // idle timeouts in the sandbox; zero: the kernel's
	StateDir string        // where former values of kernel parameters are kept; made if missing

	// VTEPMAC is the Ethernet address that packets of a host carry in a tunnel;
	// zero: in none. Nil: there are no such tunnels.
	VTEPMAC func(model.Node) model.MAC

	Log *slog.Logger // nil: none
}

// Ingress keeps the published ports of one host as Snapshots say. It is safe
// for concurrent use; all calls must come from threads in the host's network
// namespace.
type Ingress struct {
	opts   Options
	log    *slog.Logger
	params *sysctl.Keeper // of the host

	mu      sync.Mutex
	sandbox sandbox

	// What is wanted, by the last Snapshot.
	self     string
	base     base
	mappings map[port]mapping
	blocked  map[port]error // ports that are not redirected, since they are somebody's already

	// What the kernel has, as last read and written since; what is known of the
	// table is nil while nothing is.
	table virtual.Table      // in the sandbox; its IPVS is nil while that is not open
	sets  map[string]entries // by name

	draining bool
	failing  failures
}

// New makes an Ingress for the network namespace of the calling thread. It
// changes nothing yet. The error says what is missing and how to get it.
func New(opts Options) (*Ingress, error) {
	if !opts.Pool.IsValid() || !opts.Pool.Addr().Is4() {
		return nil, fmt.Errorf("pool of VIPs %s: only IPv4 is balanced so far, use a prefix like 10.96.0.0/16", opts.Pool)
	}
	opts.fill()
	if err := os.MkdirAll(opts.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	if _, err := ipset.Names(); err != nil {
		return nil, fmt.Errorf("this kernel has no IP sets (%w): run `modprobe ip_set` on the host, or install the package with the kernel's extra modules", err)
	}
	return &Ingress{
		opts: opts, log: opts.Log, params: sysctl.New(opts.hostParams()),
		sandbox: sandbox{path: opts.Netns, ns: netns.None()},
		failing: failures{},
	}, nil
}

func (o *Options) fill() {
	o.Pool = o.Pool.Masked()
	if o.Netns == "" {
		o.Netns = DefaultNetns
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func (o *Options) hostParams() string { return filepath.Join(o.StateDir, "ingress-sysctl.json") }
func (o *Options) sandboxParams() string {
	return filepath.Join(o.StateDir, "ingress-sandbox-sysctl.json")
}

// Close lets go of the kernel, which stays as it is.
func (g *Ingress) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sandbox.close()
	if g.table.IPVS != nil {
		g.table.IPVS.Close()
	}
	g.table = virtual.Table{}
}

// drainLook is how often a draining destination is looked at.
const drainLook = 200 * time.Millisecond

// Reconcile makes the kernel carry what the Snapshot says. A full pass reads
// everything back and repairs what others broke; it is due at the start and
// every few seconds. Any other pass writes what has changed in the Snapshot,
// and runs no program unless hosts, networks or new ports came.
//
// Next is when to call again for the sake of a draining task or of something
// that failed; 0: only with the next Snapshot. The problems are all there are,
// each time; one does not stop the others.
func (g *Ingress) Reconcile(ctx context.Context, snap *model.Snapshot, full bool) (next time.Duration, problems []model.Problem) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	ms, portErrs := mappings(snap)
	b := baseOf(snap, g.opts.VTEPMAC)
	full = full || g.table.Known == nil || g.failing.due(now) || !b.equal(&g.base)

	if full {
		if err := g.read(ctx); err != nil {
			// What the kernel has is not known: nothing is done by guess.
			g.table.Known = nil
			g.failing.update("kernel", map[object]error{{kind: "kernel", name: "sandbox"}: err}, true, now)
			return g.failing.wait(now), g.failing.problems(snap.Self.Name)
		}
	} else if g.draining {
		g.count(portErrs)
	}
	have := redirected(g.sets)
	g.occupied(ctx, ms, full)
	g.self, g.base, g.mappings = snap.Self.Name, b, map[port]mapping{}
	for _, m := range ms {
		g.mappings[m.port] = m
	}
	for p, err := range g.blocked {
		portErrs[g.objectOf(p)] = err
	}
	for _, p := range g.apply(wantedSets(&b, ms, g.blocked), have, now) {
		o := g.objectOf(p.port)
		if portErrs[o] == nil {
			portErrs[o] = p.err
		}
	}
	g.failing.update("service", portErrs, full, now)
	if full {
		// Last, so that nothing is let in or sent on before there is a service.
		g.failing.update("kernel", g.foundation(ctx), true, now)
	}
	next = g.failing.wait(now)
	if g.draining && (next == 0 || next > drainLook) {
		next = drainLook
	}
	return next, g.failing.problems(snap.Self.Name)
}

// objectOf is the service that has a port; the zero port is all of them.
func (g *Ingress) objectOf(p port) object {
	o := object{kind: "service", name: "published port " + p.String(), port: p}
	if m, ok := g.mappings[p]; ok {
		o.name = m.service.String()
	} else if p == (port{}) {
		o.name = "every published port"
	}
	return o
}
