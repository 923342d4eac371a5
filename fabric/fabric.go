package fabric

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"shoal/kernel/rules"
	"shoal/model"
)

// RouteProtocol tells the fabric's routes from all others ("proto 83" in ip
// route). Routes of the main table that have it and are not wanted go.
const RouteProtocol = 0x53

// Options are the settings of the fabric. They must be the same on all hosts.
type Options struct {
	Backend Backend // "": [Auto]
	VNI     int     // of vxlan, 1 to 2²⁴-1; 0: [DefaultVNI]
	Port    uint16  // of vxlan, UDP; 0: [DefaultPort]

	// ChecksumOff has the processor make the checksums of what goes into
	// vxlan (tx-checksum-ip-generic off), for network cards that get them
	// wrong: then pings pass and TCP does not.
	ChecksumOff bool

	Log *slog.Logger // nil: none
}

// Fabric keeps the kernel of one network namespace as Snapshots say. It is safe
// for concurrent use; all calls must come from threads in that namespace.
type Fabric struct {
	opts Options
	log  *slog.Logger

	mu    sync.Mutex
	done  bool   // there was a pass
	last  inputs // of the last pass
	seen  []model.Problem
	tries int // passes in a row that failed
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
		o.VNI = DefaultVNI
	}
	if o.VNI < 1 || o.VNI >= 1<<24 {
		return nil, fmt.Errorf("VNI %d: use a number from 1 to %d", o.VNI, 1<<24-1)
	}
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Fabric{opts: o, log: o.Log}, nil
}

// What failed is tried again after a second, then after twice as long each
// time, up to half a minute.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// Reconcile makes the kernel as the Snapshot says. If full is set it reads all
// of it, and repairs what others changed; else only if the hosts or this
// host's networks are others than the last time, or something failed then. It
// tells what is wrong, by host, and after which time to call again; 0: not before
// the next Snapshot. While this host has no subnet nothing is touched.
func (f *Fabric) Reconcile(ctx context.Context, snap *model.Snapshot, full bool) (again time.Duration, problems []model.Problem) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !snap.Self.Subnet.IsValid() {
		return 0, nil
	}
	in := inputsOf(snap)
	if f.done && !full && f.tries == 0 && in.equal(f.last) {
		return 0, slices.Clone(f.seen)
	}
	problems, failed := f.pass(ctx, in)
	f.last, f.done = in, true
	f.since(problems)
	f.seen = problems
	if !failed {
		f.tries = 0
		return 0, slices.Clone(problems)
	}
	again = min(firstRetry<<min(f.tries, 10), lastRetry)
	f.tries++
	return again, slices.Clone(problems)
}

// since dates problems: from when they were first seen.
func (f *Fabric) since(problems []model.Problem) {
	now := time.Now()
	for i := range problems {
		p := &problems[i]
		p.Since = now
		for _, old := range f.seen {
			if old.Kind == p.Kind && old.Object == p.Object && old.Reason == p.Reason {
				p.Since = old.Since
			}
		}
	}
}

// pass reads, compares and writes once. failed tells that trying again may
// help.
func (f *Fabric) pass(ctx context.Context, in inputs) (problems []model.Problem, failed bool) {
	if !in.self.Subnet.Addr().Is4() {
		return []model.Problem{problem(in.self, "node", in.self.Name, fmt.Errorf("this host's subnet %s is not IPv4: only that is carried between hosts", in.self.Subnet))}, false
	}
	cannot := func(err error) ([]model.Problem, bool) {
		return []model.Problem{problem(in.self, "kernel", "fabric", err)}, true
	}
	links, err := readLinks()
	if err != nil {
		return cannot(err)
	}
	want, paths, problems := desired(f.opts, in, links)
	have, err := read()
	if err != nil {
		return cannot(err)
	}
	c := diff(want, have.state)
	a := &applier{index: have.index, paths: paths, parts: map[string]error{}, peers: map[string]error{}}
	wrong := a.apply(ctx, &c, want.chains, have.missing)
	if !c.empty() || len(wrong) > 0 {
		f.log.Info("network between hosts written", "changes", c.String(), "rules", rules.Brief(wrong))
	}
	for part, err := range a.parts {
		problems = append(problems, problem(in.self, "kernel", part, err))
	}
	for peer, err := range a.peers {
		problems = append(problems, problem(in.self, "node", peer, err))
	}
	slices.SortFunc(problems, compareProblems)
	return problems, len(a.parts)+len(a.peers) > 0
}
