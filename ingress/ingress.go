package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"shoal/kernel/rules"
	"shoal/kernel/sockets"
	"shoal/kernel/sysctl"
	"shoal/lb"
	"shoal/model"
	"shoal/reconcile"
)

// Options are the settings of an Ingress.
type Options struct {
	Pool      netip.Prefix // the VIPs, whose ports are none of ours
	Recognise lb.Recognise // nil: there are no tunnels
	StateDir  string       // where former values of kernel parameters are kept; made if missing
	Policy    *Policy      // which ports may be published; nil: all
	Log       *slog.Logger // nil: none
}

// Ingress keeps the ways back to the other hosts, and knows which ports of this
// one are somebody else's. It is safe for concurrent use; all calls must come
// from threads in the host's network namespace.
type Ingress struct {
	opts   Options
	log    *slog.Logger
	params *sysctl.Keeper

	mu      sync.Mutex
	known   bool // there was a pass
	self    string
	peers   []lb.Peer
	failing *reconcile.Failures[object]

	published map[port]bool
	seen      seen            // on those
	looked    map[uint32]bool // inodes of root's listeners whose processes were looked at; of [Ingress.Occupied] alone
}

// object is what can fail by itself: the way back to a host, or a part of the
// kernel.
type object struct{ peer, part string }

// What fails is tried again after a second, then after twice as long each time,
// up to five seconds: the fabric may be about to make the route that is missing.
const (
	firstRetry = time.Second
	lastRetry  = 5 * time.Second
)

// New makes an Ingress for the network namespace of the calling thread. It
// changes nothing yet.
func New(opts Options) (*Ingress, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(opts.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	return &Ingress{
		opts: opts, log: opts.Log, params: sysctl.New(paramsFile(opts.StateDir)),
		failing: reconcile.NewFailures[object](firstRetry, lastRetry),
	}, nil
}

func paramsFile(dir string) string { return filepath.Join(dir, "ingress-sysctl.json") }

// Reconcile keeps the ways back as the Snapshot says. It looks at the kernel in
// a full pass, where hosts have changed, and where something failed before.
func (g *Ingress) Reconcile(_ context.Context, s *model.Snapshot, full bool) reconcile.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	peers := lb.BaseOf(s, g.opts.Recognise).Peers
	g.self, g.published = s.Self.Name, publishedPorts(s)
	if full || !g.known || len(g.failing.Due(now)) > 0 || !reflect.DeepEqual(peers, g.peers) {
		g.peers, g.known = peers, true
		g.failing.PutAll(g.keep(), now)
	}
	return reconcile.Result{Again: g.failing.Next(now), Problems: g.failing.Problems(func(o object, err error) model.Problem {
		p := model.Problem{Node: g.self, Code: model.CodeOf(err, model.KernelWriteFailed), Kind: "kernel", Object: o.part, Reason: err.Error()}
		if o.peer != "" {
			p.Object = "peer " + o.peer
		}
		return p
	})}
}

// keep makes the routing rules, tables and parameters what they should be.
func (g *Ingress) keep() map[object]error {
	errs := map[object]error{}
	ways, devs := waysTo(g.peers, errs)
	for _, dev := range devs {
		if err := g.params.Loosen(dev); err != nil {
			errs[object{part: "sysctl rp_filter of " + dev}] = err
		}
	}
	if err := route(ways); err != nil {
		errs[object{part: "routes"}] = err
	}
	return errs
}

// Admit tells which of these published ports are somebody else's on this host, and
// whose, or are not for labels to publish. Where that cannot be told, the host does
// not take a port, and keeps one that it has taken.
func (g *Ingress) Admit(ctx context.Context, fs []*lb.Frontend, taken func(lb.Key) bool) map[lb.Key]error {
	protos := map[model.Protocol]bool{}
	for _, f := range fs {
		protos[f.Protocol] = true
	}
	ls, err := sockets.Listeners(protos)
	var have rules.State
	if err == nil {
		have, err = rules.Read(ctx, "nat")
	}
	if errors.Is(err, exec.ErrNotFound) {
		err = nil // then nobody makes such rules
	}
	if err != nil {
		errs := map[lb.Key]error{}
		for _, f := range fs {
			if taken(f.Key) {
				continue
			}
			errs[f.Key] = fmt.Errorf("publish %s for %s: find out who has it on this host: %w", f.Key, f.Service, err)
		}
		return errs
	}
	g.mu.Lock()
	confirmed := g.seen.confirmed
	g.mu.Unlock()
	errs := occupied(fs, g.opts.Pool, ls, redirects(have), func(k lb.Key, l sockets.Listener) bool {
		return l.Protocol != model.UDP || confirmed[l] || !taken(k)
	}, sockets.Processes)
	for _, f := range fs {
		if err := g.opts.Policy.Refuse(f.Key); err != nil {
			errs[f.Key] = fmt.Errorf("publish %s for %s: %w", f.Key, f.Service, err)
		}
	}
	return errs
}

// Down takes everything away that any Ingress with these options made in the
// network namespace of the calling thread, and puts the kernel's parameters
// back. Nothing of ours there is not an error.
func Down(_ context.Context, opts Options) error {
	return errors.Join(keepRules(nil), sysctl.New(paramsFile(opts.StateDir)).Restore())
}
