package ipvs

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"shoal/kernel"
	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
	"shoal/kernel/sysctl"
	"shoal/model"
	"shoal/virtual"
)

// Options are the settings of a balancer.
type Options struct {
	Pool     netip.Prefix  // the VIPs; IPv4
	DNS      netip.Addr    // the address of the pool where this host itself answers DNS, port 53; zero: it does not
	DNSPeers netip.Addr    // the address of the pool behind which the other hosts' DNS servers are; zero: none
	Timeouts ipvs.Timeouts // idle timeouts; zero: [DefaultTimeouts]
	StateDir string        // where former values of kernel parameters are kept; made if missing

	Log        *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: no metrics
}

// DefaultTimeouts are longer than the kernel's where those hurt: it forgets a
// TCP connection idle for 900 s, which then hangs. A connection with keepalive
// sends something every 7200 s by default (tcp(7), tcp_keepalive_time).
var DefaultTimeouts = ipvs.Timeouts{TCP: 7440 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second}

// params are the kernel parameters that the balancer needs, in the order they
// are set.
var params = []struct{ name, value string }{
	{"net.ipv4.ip_forward", "1"},
	{"net.ipv4.vs.conntrack", "1"},                 // replies are known as such by filter rules, hairpin is masqueraded
	{"net.ipv4.vs.expire_nodest_conn", "1"},        // connections of a deleted destination end at once
	{"net.ipv4.vs.expire_quiescent_template", "1"}, // affinity lets go of a destination of weight 0
	{"net.bridge.bridge-nf-call-iptables", "1"},    // replies between containers of one bridge pass IPVS
}

const bridgeParam = "/proc/sys/net/bridge/bridge-nf-call-iptables"

// Balancer keeps the kernel of one network namespace as Snapshots say. It is
// safe for concurrent use; all calls must come from threads in that namespace.
type Balancer struct {
	opts   Options
	log    *slog.Logger
	params *sysctl.Keeper

	mu    sync.Mutex
	marks *marks

	// What is wanted, by the last Snapshot.
	snap  *model.Snapshot
	parts map[model.ServiceID]part
	owner map[front]model.ServiceID
	want  map[string]map[ipset.Entry]int // sets without marks: set -> entry -> how many want it

	// What the kernel has, as last read and written since.
	table virtual.Table
	sets  map[string]entries // by name

	audit   []piece // what is left of a full pass
	audited uint32  // the mark of the service whose destinations were read last, where they take turns

	draining map[front]bool // to be looked at again soon
	failing  failures
}

// part is what one service wants.
type part struct {
	fronts                []balanced // by front
	tasks, local, hairpin []ipset.Entry
}

// New checks that the kernel can balance, and makes a Balancer for the network
// namespace of the calling thread. It changes nothing yet, but loads modules.
// The error says what is missing and how to get it.
func New(opts Options) (*Balancer, error) {
	if !opts.Pool.IsValid() || !opts.Pool.Addr().Is4() {
		return nil, fmt.Errorf("pool of VIPs %s: only IPv4 is balanced so far, use a prefix like 10.96.0.0/16", opts.Pool)
	}
	opts.Pool = opts.Pool.Masked()
	if opts.Timeouts == (ipvs.Timeouts{}) {
		opts.Timeouts = DefaultTimeouts
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := os.MkdirAll(opts.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	h, err := ipvs.New(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := ipset.Names(); err != nil {
		h.Close()
		return nil, fmt.Errorf("this kernel has no IP sets (%w): run `modprobe ip_set` on the host, or install the package with the kernel's extra modules", err)
	}
	b := &Balancer{
		opts: opts, log: opts.Log, table: virtual.Table{IPVS: h},
		params: sysctl.New(paramsFile(opts.StateDir)),
		marks:  newMarks(),
	}
	b.unknown()
	b.failing = failures{}
	if opts.Registerer != nil {
		if err := register(opts.Registerer, kernel.Writes, collector{b}); err != nil {
			h.Close()
			return nil, err
		}
	}
	return b, nil
}

// Close lets go of the kernel, which stays as it is.
func (b *Balancer) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opts.Registerer != nil {
		b.opts.Registerer.Unregister(collector{b})
	}
	b.table.IPVS.Close()
}

// forget drops what is wanted, so that the next Snapshot is all new.
func (b *Balancer) forget() {
	b.snap = nil
	b.parts = map[model.ServiceID]part{}
	b.owner = map[front]model.ServiceID{}
	b.want = map[string]map[ipset.Entry]int{}
	for _, s := range sets {
		b.want[s.Name] = map[ipset.Entry]int{}
	}
	if b.opts.DNS.IsValid() {
		b.want[setPing.Name][ipset.Addr(b.opts.DNS)] = 1
	}
}

func paramsFile(dir string) string   { return filepath.Join(dir, "sysctl.json") }
func timeoutsFile(dir string) string { return filepath.Join(dir, "ipvs-timeouts.json") }
