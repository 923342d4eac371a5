package catalog

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"shoal/internal/health"
	"shoal/model"
	"shoal/store/etcd"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Options say whose catalog it is and where it is kept.
type Options struct {
	Self       model.Node            // this host; Alive is taken for granted. Subnet, Number, MAC: zero ones are those of the last run
	StateDir   string                // of the disk cache. It exists, and no other process uses it
	Client     *etcd.Client          // of the etcd that keeps the records; it stays open until after Close
	SubnetPool model.Pools           // other hosts' subnets have to be of it; none: of a private range
	LeaseTTL   time.Duration         // how long this host's tasks are remembered without it; 0: a week
	Rest       time.Duration         // how long a VIP is for nobody else after the last task of the service that had it; 0: not at all
	Log        *slog.Logger          // nil: slog.Default
	Registerer prometheus.Registerer // nil: no metrics
	Health     *health.State         // has the loop watched that builds Snapshots; nil: nobody does

	// Run tells apart two machines with the same name and state: it is the same
	// each time an agent starts on one, until the machine is booted anew; "": they
	// are not told apart.
	Run string

	// Report, where it is not nil, is given the problems that keep this host from
	// writing to the store for good.
	Report func([]model.Problem)

	// RemoveServer takes the vote of a host in the store, last known at the address, before
	// RemoveNode forgets the host; nil: hosts do not serve the store.
	RemoveServer func(ctx context.Context, node string, addr netip.Addr) error

	// Applies says that [Catalog.Applied] is called: other hosts are told of a task that comes into
	// rotation after that. If not, they are told at once.
	Applies bool

	// Settle is how long the first Snapshot waits after the cluster's state was read from
	// etcd. It is for a store that was restored from a backup: the other hosts write
	// meanwhile what that lacks.
	Settle time.Duration

	cacheAfter time.Duration // how long etcd is waited for before the state of the last run will do; 0: 3 s. For tests
}

// Catalog keeps this host's part of the catalog in etcd, and the whole of it in
// memory. Its methods may be called at any time from any goroutine.
type Catalog struct {
	o       Options
	log     *slog.Logger
	client  *etcd.Client
	metrics *metrics
	cancel  context.CancelFunc
	done    sync.WaitGroup

	closing sync.Once

	changed   chan struct{} // of capacity 1: the records are not what the Snapshot says
	unsaved   chan struct{} // of capacity 1: etcd may not be what it should
	relist    chan struct{} // of capacity 1: what was watched may be gone
	unnamed   chan struct{} // of capacity 1: a later run of this host wrote its name over this one's
	storeLost chan struct{} // of capacity 1: etcd is not going to answer soon
	known     chan struct{} // closed once the records hold the cluster's state
	listed    chan struct{} // closed once that came from etcd
	localIs   chan struct{} // closed once this host's containers are known

	snapshot  atomic.Pointer[model.Snapshot]
	published atomic.Pointer[time.Time]

	subscribers subscribers

	mu         sync.Mutex
	self       model.Node
	records    *records
	localKnown bool
	cached     *cache                     // what the last run knew; nil: nothing, or not needed any more
	inEtcd     map[string]model.Container // this host's containers, by key, until localKnown
	want       map[string]uint64          // key -> fingerprint of what etcd should hold of this host
	have       map[string]keptRecord      // key -> what it holds
	unreadable map[string]int64           // key -> revision of a record that does not parse
	seen       int64                      // etcd's revision that the records are at
	cluster    uint64                     // the ID of the etcd cluster they are of; 0: not listed yet
	from       position                   // of the state of the last run, to go on from; zero: it is to be listed
	resumed    int64                      // the revision from which on the records are the cluster's state, having gone on so; 0: they are, or are listed
	advance    chan struct{}              // closed, and made anew, when seen grows
	lease      clientv3.LeaseID           // the last one held
	run        agentRecord                // this run; its Since is zero until that is known
	other      *agentRecord               // the run of another host of this name, which came first
	local      ownList
	opening    map[string]opening   // containers of this host, by ID, that the other hosts are told of later
	applied    uint64               // revision of the newest Snapshot that the data plane has
	listDue    bool                 // local is to begin another generation once there are no such containers
	hostLists  map[string]*hostList // by name
	lacking    map[string]time.Time // key -> since when it is kept though etcd, put back to an older state, has it no more
	held       time.Time            // when hostLists took what was known before such a state
	lastErr    error                // of etcd; nil once it is well again
	mailboxes  map[chan *model.Snapshot]struct{}
}

// keptRecord is a record of this host as etcd has it.
type keptRecord struct {
	sum   uint64 // fingerprint of its value
	lease clientv3.LeaseID
}

var seed = maphash.MakeSeed()

func fingerprint(value string) uint64 { return maphash.String(seed, value) }

// Open starts the catalog. Etcd may be away: until it is there, the catalog goes
// by what it knew when last it ran.
//
// The context bounds Open, not the life of the Catalog: that ends with Close.
func Open(ctx context.Context, o Options) (*Catalog, error) {
	if err := model.CheckNodeName(o.Self.Name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o.Self.Alive = true
	o.LeaseTTL = cmp.Or(o.LeaseTTL, leaseTTL)
	o.cacheAfter = cmp.Or(o.cacheAfter, 3*time.Second)
	o.Log = cmp.Or(o.Log, slog.Default())
	c := &Catalog{
		o:          o,
		log:        o.Log,
		client:     o.Client,
		changed:    make(chan struct{}, 1),
		unsaved:    make(chan struct{}, 1),
		relist:     make(chan struct{}, 1),
		unnamed:    make(chan struct{}, 1),
		storeLost:  make(chan struct{}, 1),
		known:      make(chan struct{}),
		listed:     make(chan struct{}),
		localIs:    make(chan struct{}),
		records:    newRecords(o.Self.Name),
		inEtcd:     map[string]model.Container{},
		want:       map[string]uint64{},
		have:       map[string]keptRecord{},
		unreadable: map[string]int64{},
		advance:    make(chan struct{}),
		mailboxes:  map[chan *model.Snapshot]struct{}{},
		run:        agentRecord{Run: o.Run},
		local:      ownList{changed: make(chan struct{}, 1)},
		opening:    map[string]opening{},
		hostLists:  map[string]*hostList{},
		lacking:    map[string]time.Time{},
	}
	c.records.subnets = o.SubnetPool
	c.setSelf(o.Self)
	c.snapshot.Store(new(model.Snapshot))
	var err error
	if c.cached, err = readCache(c.cachePath(), o.Self.Name); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.log.Warn("the state of the last run is of no use", "error", err)
	}
	if c.cached != nil {
		c.adopt(c.cached.node(o.Self.Name))
		c.from = c.cached.header.position
	}
	if c.metrics, err = newMetrics(c, o.Registerer); err != nil {
		return nil, err
	}

	run, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	for _, work := range []func(context.Context){c.publish, c.read, c.write, c.keepCache} {
		c.done.Go(func() { work(run) })
	}
	return c, nil
}

// SetLocal tells what the engine of this host says, the whole of it. It is in
// the next Snapshot at once, and in etcd as soon as that is possible: a task that comes into
// rotation, once the data plane has it ([Options].Applies). What its containers point to,
// addresses and tasks, and its resting addresses must not be changed afterwards.
func (c *Catalog) SetLocal(l model.Local) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setLocal(l)
}

func (c *Catalog) setLocal(l model.Local) {
	node := c.o.Self.Name
	gone := make(map[string]*model.Container, len(c.records.containers[node]))
	for id, old := range c.records.containers[node] {
		gone[id] = old
	}
	changed := !c.localKnown
	for i := range l.Containers {
		ctr := bounded(l.Containers[i])
		c.noteOpening(gone[ctr.ID], &ctr)
		delete(gone, ctr.ID)
		if c.records.putContainer(ctr) && c.wantContainer(&ctr) {
			changed = true
		}
	}
	for id := range gone {
		delete(c.opening, id)
		c.records.deleteContainer(node, id)
		if _, wanted := c.want[taskKey(node, id)]; wanted {
			delete(c.want, taskKey(node, id))
			changed = true
		}
	}
	if changed {
		c.listChanges()
	}
	c.records.setNetworks(l.Networks)
	c.records.setResting(l.Resting)
	if !c.localKnown {
		close(c.localIs)
	}
	c.localKnown, c.inEtcd = true, nil
	wake(c.changed)
	wake(c.unsaved)
}

// wantContainer notes what etcd should hold of a container of this host, and tells
// whether that is something else than before.
func (c *Catalog) wantContainer(ctr *model.Container) (changed bool) {
	key := taskKey(ctr.Node, ctr.ID)
	before, wanted := c.want[key]
	delete(c.want, key)
	if !needsRecord(ctr) {
		return wanted
	}
	value := encode(ctr)
	if len(value) > maxRecord { // without tasks: its name and its addresses are
		c.log.Error("container is unknown to the other hosts: its record is too large", "id", ctr.ID, "bytes", len(value), "most", maxRecord)
		return wanted
	}
	c.want[key] = fingerprint(value)
	return !wanted || c.want[key] != before
}

// StoreLost tells that etcd is not going to answer soon: a catalog that has not reached it since its start goes
// by the state of the last run at once, where it would wait for some seconds.
func (c *Catalog) StoreLost() { wake(c.storeLost) }

// LocalKnown is closed once this host's containers are known.
func (c *Catalog) LocalKnown() <-chan struct{} { return c.localIs }

// RestoreLocal takes for this host's containers what they were when last they
// were written, in etcd or else on disk, and tells whether there was anything.
// It is for a start at which the engine does not answer. It waits for etcd a
// few seconds, and does nothing after SetLocal.
func (c *Catalog) RestoreLocal() bool {
	select {
	case <-c.known:
	case <-time.After(c.o.cacheAfter):
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.localKnown {
		return true
	}
	var l model.Local
	if c.cached != nil {
		l = c.cached.local(c.o.Self.Name)
	}
	if len(c.inEtcd) > 0 {
		l.Containers = l.Containers[:0]
		for _, ctr := range c.inEtcd {
			l.Containers = append(l.Containers, ctr)
		}
	}
	if len(l.Containers) == 0 && len(l.Networks) == 0 {
		return false
	}
	c.setLocal(l)
	return true
}

// Recorded is a container of this host as SetLocal last told it, or, before it did, as it
// was when it was last written, in etcd or else on disk; false: it is not known. The caller
// must not change its tasks.
func (c *Catalog) Recorded(id string) (model.Container, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	node := c.o.Self.Name
	if c.localKnown {
		if ctr := c.records.containers[node][id]; ctr != nil {
			return *ctr, true
		}
		return model.Container{}, false
	}
	if ctr, there := c.inEtcd[taskKey(node, id)]; there {
		return ctr, true
	}
	if c.cached != nil {
		ctr, there := c.cached.containers[model.ContainerKey{Node: node, ID: id}]
		return ctr, there
	}
	return model.Container{}, false
}

// Close stops the catalog. This host's records stay in etcd: an agent that stops
// leaves its tasks where they are, and traffic goes on.
func (c *Catalog) Close() {
	c.closing.Do(func() {
		c.cancel()
		c.done.Wait()
		c.closeMailboxes()
		c.metrics.unregister()
	})
}

// wake signals without waiting: a signal not yet taken stands for this one too.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
