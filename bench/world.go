package bench

import (
	"net/netip"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"shoal/lab"
)

// What runs on the host, all on one Docker network, whose addresses are fixed.
const (
	networkName = "bench"
	subnet      = "10.101.9.0/24" // of those the lab's first host has
	port        = 8000            // of whoami
)

var (
	webAddr    = netip.MustParseAddr("10.101.9.10") // always there
	comerAddr  = netip.MustParseAddr("10.101.9.11") // comes and goes
	callerAddr = netip.MustParseAddr("10.101.9.200")
	dnsAddr    = netip.MustParseAddr("10.96.0.10")
)

// world is one host, with a caller and a task of the service web.
type world struct {
	*site
	etcd     *clientv3.Client
	client   *caller
	web      netip.Addr // VIP
	stage    *stage
	fakes    int             // services without containers
	contests map[int]contest // through the VIP, by the number of services
}

// vipAims are those of a VIP.
var vipAims = aims{kept: 0.97, once: 0.93, bulk: 0.95}

// oneHost measures what there is to one host.
func (b *bench) oneHost() {
	w := newWorld(b, planeAlone...)
	for _, n := range []int{1, 1_000, 10_000} {
		w.fill(n)
		b.add(w.throughVIP(n))
		if n == 1 {
			b.add([]Row{w.client.straightAfter(w.web, webAddr, straightPace)})
		}
		if n > 1 {
			b.add(w.reach(n))
		}
		if n != 1_000 {
			b.add(w.changes(n))
		}
	}
	b.add(w.flatness())
	b.add(w.dns())
	b.add(w.restarts())
	b.add(w.rules()) // the last: it ends the agent
}

// restingHost measures what an agent takes that was started with no settings, while nothing happens.
func (b *bench) restingHost() {
	w := newWorld(b)
	w.fill(1)
	one := w.rest()
	w.fill(10_000)
	b.add(w.agent(one, w.rest()))
	b.add(w.full(one))
	b.add([]Row{w.changeCost()})
}

// newWorld makes a host whose agent is started with args.
func newWorld(b *bench, args ...string) *world {
	b.Logf("a host with an engine and an agent")
	host := lab.New(b).Host("a")
	host.StartAgent(args...)
	w := &world{site: newSite(b, host), contests: map[int]contest{}}
	var err error
	w.etcd, err = clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(host.Dir(), "state", "etcd.sock")}})
	b.must("open the agent's store", err)
	b.Cleanup(func() { w.etcd.Close() })

	host.Docker("network", "create", "--subnet", subnet, networkName)
	w.run(networkName, "client", callerAddr, "whoami", "sleep", "86400")
	w.run(networkName, "web", webAddr, "-l", "shoal.service=web", "-l", "shoal.vip="+webVIP, "whoami")
	w.web = w.vip("web", 1)
	w.client = w.caller("client", callerAddr.Next())
	return w
}

// throughVIP measures requests through the VIP of web, and straight to its task, with
// n services in the kernel.
func (w *world) throughVIP(n int) []Row {
	w.Logf("through the VIP, %s", services(n))
	c := w.contest(w.client.path(w.web, port), w.client.path(webAddr, port))
	w.contests[n] = c
	return c.rows("VIP, "+services(n), "straight to the task", vipAims)
}

// flatness says what became of the ratios from one service to ten thousand.
func (w *world) flatness() []Row {
	one, most := w.contests[1], w.contests[10_000]
	row := func(what string, one, most turns) Row {
		a, b := one.ratio(0, 1), most.ratio(0, 1)
		return Row{What: "VIP, from 1 to 10,000 services: " + what, Shoal: "ratio " + b.String() + " at 10,000",
			Against: "ratio " + a.String() + " at 1", Ratio: exactly(b.median / a.median)}.atLeast(0.95)
	}
	return []Row{
		row("requests on kept connections", one.kept, most.kept),
		row("requests each on a new connection", one.once, most.once),
		row("connections by their first packet", one.first, most.first),
		row("throughput", one.bulk, most.bulk),
	}
}

// changes has a container come and go, with n services in the kernel.
func (w *world) changes(n int) []Row {
	if w.stage == nil {
		w.stage = &stage{site: w.site, sites: []*site{w.site}, callers: []*caller{w.client}, addr: comerAddr, pace: 15 * time.Millisecond}
		w.askQuickly(w.client.thread, "eth0")
		w.stage.prepare(networkName)
	}
	return w.stage.changes(services(n), 100*time.Millisecond)
}
