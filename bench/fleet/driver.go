package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// driver runs a simulation. Its goroutine stays on one thread, which is in the fleet's
// network namespace.
type driver struct {
	o        Options
	plan     plan
	ctx      context.Context
	progress io.Writer
	began    time.Time
	late     lateness
	dir      string

	servers  []*worker // of the store; nil: killed
	catalogs []*worker
	lives    []*worker
	started  sync.Mutex    // held while catalogs and lives are changed, or read in another goroutine than the driver's
	ended    time.Duration // of the processor, by etcds that were killed

	rows     []row
	outcomes []outcome
}

// Run simulates a fleet, and writes the table to out and what it is doing to progress. It
// returns the exit status: 0 if all was measured, whatever came out.
func Run(ctx context.Context, o Options, out, progress io.Writer) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(progress, "fleet: it makes a network namespace and rules in it: run it as root")
		return 1
	}
	p, err := o.check()
	if err != nil {
		fmt.Fprintln(progress, "fleet:", err)
		return 2
	}
	runtime.LockOSThread() // and never unlocked: the thread is in the namespace
	d := &driver{o: o, plan: p, ctx: ctx, progress: progress, began: time.Now()}
	err = d.run()
	fmt.Fprintf(out, "%d hosts with %d tasks each, %d servers of the store, %d processors, %d of the hosts ask all others\n\n",
		o.Hosts, o.Tasks, o.Servers, processors(), o.Askers)
	fmt.Fprint(out, markdown(d.rows), "\n")
	if err != nil {
		fmt.Fprintln(out, "It was not measured to the end.")
		fmt.Fprintln(progress, "fleet:", err)
		return 1
	}
	fmt.Fprintln(out, breaks(d.outcomes))
	return 0
}

func (d *driver) run() (err error) {
	if err := moreFiles(d.o.Hosts, d.o.Workers); err != nil {
		return err
	}
	if err := ownNetwork(d.o.Servers); err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp(d.o.Dir, "fleet"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	defer d.end()
	go d.late.measure()
	// What a worker is asked for may take minutes.
	defer context.AfterFunc(d.ctx, d.stopHosts)()
	if err := d.prepare(); err != nil {
		return err
	}
	for _, name := range d.plan.phases {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		d.say("phase %s", name)
		if err := d.phase(name); err != nil {
			return fmt.Errorf("phase %s: %w", name, err)
		}
	}
	return nil
}

// moreFiles raises how many files this process, and those that it starts, may have open:
// as far as that is possible, and to what the workers need at least.
func moreFiles(hosts, workers int) error {
	const most, each = 1 << 18, 20 // each host has connections to others besides
	var now syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
		return err
	}
	// By package syscall, so that Go does not put it back for those started.
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: max(now.Cur, most), Max: max(now.Max, most)}) == nil {
		return nil
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: now.Max, Max: now.Max}); err != nil {
		return fmt.Errorf("have %d files open: %w", now.Max, err)
	}
	if need := uint64(each * hosts / workers); now.Max < need {
		return fmt.Errorf("a worker opens some %d files, and may have %d open: raise the limit (ulimit -n), or use more workers", need, now.Max)
	}
	return nil
}

// say tells what is being done.
func (d *driver) say(format string, a ...any) {
	fmt.Fprintf(d.progress, "%7.1fs %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, a...))
}

// add adds a row.
func (d *driver) add(phase, what, format string, a ...any) {
	r := row{phase, what, fmt.Sprintf(format, a...)}
	d.rows = append(d.rows, r)
	d.say("%s: %s: %s", r.phase, r.what, r.figure)
}

// stopHosts kills the processes that have hosts.
func (d *driver) stopHosts() {
	d.started.Lock()
	defer d.started.Unlock()
	for _, w := range append(slices.Clone(d.catalogs), d.lives...) {
		w.cmd.Process.Kill()
	}
}

// end ends all workers.
func (d *driver) end() {
	for _, all := range [][]*worker{d.lives, d.catalogs, d.servers} {
		for _, w := range all {
			if w != nil {
				w.kill()
			}
		}
	}
}

// prepare makes identities, and starts the store and the workers, without hosts yet.
func (d *driver) prepare() error {
	d.say("identities for %d hosts", d.o.Hosts)
	nodes := map[string]netip.Addr{}
	for h := range d.o.Hosts {
		nodes[nodeName(h)] = hostAddr(h)
	}
	for s := range d.o.Servers {
		nodes[serverName(s)] = serverAddr(s)
	}
	if err := makeIdentities(d.ctx, d.dir, nodes); err != nil {
		return err
	}
	if d.plan.has(partCatalog) {
		for s := range d.o.Servers {
			d.say("server %d of the store", s+1)
			d.servers = append(d.servers, nil)
			if err := d.startServer(s); err != nil {
				return err
			}
		}
	}
	for _, part := range d.plan.parts {
		for range d.o.Workers {
			w, err := startWorker(part, d.o.Verbose)
			if err != nil {
				return err
			}
			d.started.Lock()
			if part == partCatalog {
				d.catalogs = append(d.catalogs, w)
			} else {
				d.lives = append(d.lives, w)
			}
			d.started.Unlock()
		}
	}
	return nil
}

// startServer starts a server of the store, and returns when that serves.
func (d *driver) startServer(s int) error {
	w, err := startWorker("store", d.o.Verbose)
	if err != nil {
		return err
	}
	d.servers[s] = w
	a := serverArgs{Dir: d.dir, Node: serverName(s), Addr: serverAddr(s)}
	if s > 0 {
		a.Join = serverAddr(0)
	}
	return w.do("start", a, nil)
}

// killServer kills a server of the store; its etcd ends with it.
func (d *driver) killServer(s int) {
	for _, p := range processes() {
		if p.parent == d.servers[s].pid() {
			d.ended += p.cpu
		}
	}
	d.servers[s].kill()
	d.servers[s] = nil
}

// all has workers do the same at once. args makes the arguments for each, value is where
// the answer goes; nil: it is not needed.
func all(ws []*worker, what string, args func(i int) any, value func(i int) any) error {
	var g errgroup.Group
	for i, w := range ws {
		g.Go(func() error {
			var v any
			if value != nil {
				v = value(i)
			}
			return w.do(what, args(i), v)
		})
	}
	return g.Wait()
}

// settled has workers do the same at once, and puts what they say together.
func (d *driver) settled(ws []*worker, what string, args any) (s settled, err error) {
	parts := make([]settled, len(ws))
	err = all(ws, what, func(int) any { return args }, func(i int) any { return &parts[i] })
	for _, p := range parts {
		s.Took = append(s.Took, p.Took...)
		s.Open += p.Open
	}
	return s, err
}

// now is what was used up to now.
func (d *driver) now() (u usage, err error) {
	u = usage{over: time.Since(d.began), cpu: map[string]time.Duration{}, memory: map[string]int64{}}
	if d.plan.has(partCatalog) {
		u.cpu[partStore] = d.ended
	}
	running := processes()
	use := func(part string, w *worker) {
		if w == nil {
			return
		}
		for pid, p := range running {
			// Of the store its etcd counts, not the worker, which asks it now and then.
			if part == partStore && p.parent == w.pid() || part != partStore && pid == w.pid() {
				u.cpu[part] += p.cpu
				u.memory[part] += p.memory
			}
		}
	}
	for part, ws := range map[string][]*worker{partStore: d.servers, partCatalog: d.catalogs, partLiveness: d.lives} {
		for _, w := range ws {
			use(part, w)
		}
	}
	if u.sent, err = readTraffic(); err != nil {
		return u, err
	}
	for _, w := range d.servers {
		if w != nil {
			return u, w.do("status", nil, &u.store)
		}
	}
	return u, nil
}
