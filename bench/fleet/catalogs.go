package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"shoal/catalog"
	"shoal/cluster"
	"shoal/model"
	"shoal/store"
	"shoal/store/etcd"
)

// catalogArgs say which hosts' catalogs a worker has.
type catalogArgs struct {
	Dir                          string
	Hosts                        []int // its own
	Total, Tasks, Servers, Watch int   // hosts in all, tasks of each, servers, hosts that watch
}

// tally tells sets of containers apart: how many there are, and the sum of their IDs'
// hashes.
type tally struct {
	Count int
	Sum   uint64
}

func (t *tally) add(id string) {
	h := fnv.New64a()
	h.Write([]byte(id))
	t.Count++
	t.Sum += h.Sum64()
}

func (t *tally) join(o tally) { t.Count, t.Sum = t.Count+o.Count, t.Sum+o.Sum }

// settled says when hosts had a state: how long after the time asked for.
type settled struct {
	Took times
	Open int // hosts that did not, within the limit
}

// catalogs are the hosts of a worker.
type catalogs struct {
	args   catalogArgs
	hosts  []*catalogHost
	failed atomic.Int64 // claims of a subnet that have been tried again
	next   int          // of the tasks that churn replaces, in turn
}

// catalogHost is a host: its catalog, and its containers as its engine would tell of them.
type catalogHost struct {
	number  int
	client  *etcd.Client
	catalog *catalog.Catalog
	watch   *watch // nil: it does not watch for changes

	mu    sync.Mutex
	local []model.Container // empty until the host has a subnet
	turns []int             // how often each was replaced
}

// catalogActions are those of a worker that has catalogs.
func catalogActions() map[string]action {
	c := new(catalogs)
	return map[string]action{
		"start": does(c.start),
		"tally": func(json.RawMessage) (any, error) { return c.tally(), nil },
		"await": does(c.await),
		"watch": func(json.RawMessage) (any, error) { return nil, c.beginWatch() },
		"churn": does(c.churn),
		"seen":  func(json.RawMessage) (any, error) { return c.endWatch(), nil },
		"stats": func(json.RawMessage) (any, error) { return c.stats(), nil },
	}
}

// start starts all hosts at once. It returns before they are known to each other.
func (c *catalogs) start(a catalogArgs) (any, error) {
	c.args = a
	watching := spread(a.Total, a.Watch)
	c.hosts = make([]*catalogHost, len(a.Hosts))
	var wg sync.WaitGroup
	errs := make(chan error, len(a.Hosts))
	for i, n := range a.Hosts {
		wg.Go(func() {
			h := &catalogHost{number: n}
			if watching[n] {
				h.watch = new(watch)
			}
			c.hosts[i] = h
			if err := c.open(h); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
	}
	for _, h := range c.hosts {
		go c.live(h)
	}
	return nil, nil
}

func (c *catalogs) open(h *catalogHost) error {
	node, addr := nodeName(h.number), hostAddr(h.number)
	id, err := cluster.Load(identityOf(c.args.Dir, node, addr))
	if err != nil {
		return err
	}
	var endpoints []string
	for _, a := range aliases(c.args.Servers, h.number) {
		endpoints = append(endpoints, fmt.Sprintf("https://%s:%d", a, store.ClientPort))
	}
	if h.client, err = etcd.Dial(endpoints, storeTLS(id)); err != nil {
		return err
	}
	h.catalog, err = catalog.Open(context.Background(), catalog.Options{
		Self: model.Node{Name: node, Addr: addr}, StateDir: filepath.Join(c.args.Dir, node), Client: h.client,
		Log: slog.Default().With("node", node), Run: node,
	})
	return err
}

// pool is where hosts claim their subnets.
var pool = netip.MustParsePrefix("10.0.0.0/8")

// claimPause is how long a host waits that got no subnet.
const claimPause = time.Second

// live has the host claim its subnet once it knows the cluster, as an agent does, and start
// its containers in it.
func (c *catalogs) live(h *catalogHost) {
	h.catalog.SetLocal(model.Local{})
	ctx, cancel := context.WithCancel(context.Background())
	<-h.catalog.Watch(ctx)
	cancel()
	for {
		subnet, number, err := h.catalog.ClaimSubnet(context.Background(), model.Pools{pool}, 24, nil)
		if err != nil {
			c.failed.Add(1)
			time.Sleep(claimPause)
			continue
		}
		h.catalog.SetSelf(func(n *model.Node) { n.Subnet, n.Number = subnet, number })
		h.mu.Lock()
		defer h.mu.Unlock()
		h.turns = make([]int, c.args.Tasks)
		for task := range c.args.Tasks {
			h.local = append(h.local, c.container(h.number, task, 0, subnet))
		}
		h.tell()
		return
	}
}

// tell tells the catalog of the containers. The caller holds h.mu.
func (h *catalogHost) tell() {
	h.catalog.SetLocal(model.Local{Containers: append([]model.Container(nil), h.local...)})
}

// tasksPerService is how many tasks a service has. They are on different hosts.
const tasksPerService = 10

// container is a host's task, of some service, which was replaced so many times.
func (c *catalogs) container(host, task, turn int, subnet netip.Prefix) model.Container {
	node := nodeName(host)
	name := fmt.Sprintf("%s-%03d-%d", node, task, turn)
	id := fmt.Sprintf("%064s", name)
	services := max(1, c.args.Total*c.args.Tasks/tasksPerService)
	service := model.ServiceID{Stack: "fleet", Name: fmt.Sprintf("service-%d", (task*c.args.Total+host)%services)}
	b := subnet.Addr().As4()
	b[3] = byte(10 + 2*task + turn%2)
	addr, now := netip.AddrFrom4(b), time.Now()
	return model.Container{
		ID: id, Name: name, Node: node, Stack: "fleet", Addrs: []netip.Addr{addr}, Since: now,
		Tasks: []model.Task{{
			Service: service, Node: node, Container: id, Name: name, Addr: addr, State: model.Running, Since: now, Started: now,
			Drain: 10 * time.Second, Weight: 1,
			Spec: &model.Spec{Mode: model.ModeVIP, Scheduler: "rr", Ports: []model.Port{{Port: 80, Target: 8080, Protocol: model.TCP}}},
		}},
	}
}

// tally is of the worker's own hosts' containers: those that there are to be.
func (c *catalogs) tally() (t tally) {
	for _, h := range c.hosts {
		h.mu.Lock()
		turns := h.turns
		if turns == nil {
			turns = make([]int, c.args.Tasks)
		}
		for task, turn := range turns {
			ctr := c.container(h.number, task, turn, pool)
			t.add(ctr.ID)
		}
		h.mu.Unlock()
	}
	return t
}

// awaitArgs say what hosts are waited for to have, since when, and for how long.
type awaitArgs struct {
	Want  tally
	Since time.Time
	Limit time.Duration
}

// await waits until each host's Snapshot has all containers of all hosts.
func (c *catalogs) await(a awaitArgs) (any, error) {
	var s settled
	open := append([]*catalogHost(nil), c.hosts...)
	looked := make(map[*catalogHost]uint64, len(open))
	end := time.Now().Add(a.Limit)
	for len(open) > 0 && time.Now().Before(end) {
		var rest []*catalogHost
		for _, h := range open {
			snap := h.catalog.Snapshot()
			if snap == nil || snap.Revision == looked[h] || !c.complete(snap, a.Want) {
				if snap != nil {
					looked[h] = snap.Revision
				}
				rest = append(rest, h)
				continue
			}
			s.Took = append(s.Took, time.Since(a.Since))
		}
		if open = rest; len(open) > 0 {
			time.Sleep(20 * time.Millisecond)
		}
	}
	s.Open = len(open)
	return s, nil
}

func (c *catalogs) complete(s *model.Snapshot, want tally) bool {
	if s.Containers.Len() != want.Count || len(s.Nodes) != c.args.Total {
		return false
	}
	var t tally
	for ctr := range s.Containers.All() {
		t.add(ctr.ID)
	}
	return t == want
}

// churnArgs say how many tasks are replaced.
type churnArgs struct {
	Rate float64 // a second, by this worker
	For  time.Duration
}

// churn replaces tasks, one after the other and on one host after the other. It returns how
// many.
func (c *catalogs) churn(a churnArgs) (any, error) {
	made := 0
	start := time.Now()
	for {
		due := start.Add(time.Duration(float64(made) / a.Rate * float64(time.Second)))
		if due.Sub(start) >= a.For || time.Since(start) > a.For+time.Second {
			return made, nil
		}
		time.Sleep(time.Until(due))
		c.hosts[c.next%len(c.hosts)].replace(c, c.next/len(c.hosts)%c.args.Tasks)
		c.next++
		made++
	}
}

// replace has a container end and another start in its place.
func (h *catalogHost) replace(c *catalogs, task int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if task >= len(h.local) {
		return
	}
	h.turns[task]++
	subnet := netip.PrefixFrom(h.local[task].Addrs[0], 24).Masked()
	h.local[task] = c.container(h.number, task, h.turns[task], subnet)
	h.tell()
}

// watch notes how long changes took to come to a host.
type watch struct {
	stop  context.CancelFunc
	done  chan struct{}
	known map[string]bool // containers, by ID
	took  times
}

// beginWatch has the hosts that watch note what comes from now on.
func (c *catalogs) beginWatch() error {
	for _, h := range c.hosts {
		if h.watch == nil {
			continue
		}
		snap := h.catalog.Snapshot()
		if snap == nil {
			return fmt.Errorf("host %d has no state yet", h.number)
		}
		ctx, cancel := context.WithCancel(context.Background())
		w := &watch{stop: cancel, done: make(chan struct{}), known: map[string]bool{}}
		h.watch = w
		for ctr := range snap.Containers.All() {
			w.known[ctr.ID] = true
		}
		go w.follow(h.catalog.Watch(ctx), snap)
	}
	return nil
}

// follow takes Snapshots until there are no more.
func (w *watch) follow(snapshots <-chan *model.Snapshot, last *model.Snapshot) {
	defer close(w.done)
	for s := range snapshots {
		now := time.Now()
		see := func(svc *model.Service) {
			for _, t := range svc.Tasks {
				if !w.known[t.Container] {
					w.known[t.Container] = true
					w.took = append(w.took, now.Sub(t.Started))
				}
			}
		}
		if ids, known := s.ServicesSince(last); known {
			for _, id := range ids {
				if svc, ok := s.Service(id); ok {
					see(svc)
				}
			}
		} else {
			for _, svc := range s.Services {
				see(svc)
			}
		}
		last = s
	}
}

// endWatch returns how long changes took to come to the hosts that watch.
func (c *catalogs) endWatch() (all times) {
	for _, h := range c.hosts {
		if h.watch == nil || h.watch.stop == nil {
			continue
		}
		h.watch.stop()
		<-h.watch.done
		all = append(all, h.watch.took...)
		h.watch = new(watch)
	}
	return all
}

// catalogStats are what catalogs say of themselves.
type catalogStats struct {
	Claims    int64 // of subnets, that were tried again from the start
	Goroutine int
	CacheSize int64 // of one host's state on disk, in bytes
}

func (c *catalogs) stats() catalogStats {
	s := catalogStats{Claims: c.failed.Load(), Goroutine: runtime.NumGoroutine()}
	if len(c.hosts) > 0 {
		if fi, err := os.Stat(filepath.Join(c.args.Dir, nodeName(c.hosts[0].number), "cache.jsonl")); err == nil {
			s.CacheSize = fi.Size()
		}
	}
	return s
}
