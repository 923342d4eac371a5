package catalog

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"shoal/model"
)

// states are the states of a service's tasks in the newest Snapshot.
func states(c *Catalog, name string) string {
	svc, ok := c.Snapshot().Service(model.ServiceID{Stack: model.DefaultStack, Name: name})
	if !ok {
		return "no service"
	}
	var all []string
	for _, t := range svc.Tasks {
		all = append(all, string(t.State))
	}
	return strings.Join(all, " ")
}

// alive are the hosts in the newest Snapshot; a dead one is in parentheses.
func alive(c *Catalog) string {
	var all []string
	for _, n := range c.Snapshot().Nodes {
		if !n.Alive {
			n.Name = "(" + n.Name + ")"
		}
		all = append(all, n.Name)
	}
	return strings.Join(all, " ")
}

func TestTasksOfADeadHostAreLostAndBackAtOnce(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	a := open(t, "a", dir)
	b := open(t, "b", shortDir(t), beside(t, a))
	a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web")))
	sick := ctr("b", "3", "10.0.1.2", "web")
	sick.Tasks[0].State = model.Unhealthy
	b.SetLocal(local(ctr("b", "2", "10.0.1.1", "web"), sick))
	eventually(t, "all tasks", func() bool { return tasks(a, "web") == "a/1 b/2 b/3" })
	settled(t, a)
	settled(t, b)
	before := a.Snapshot()

	a.SetAlive(map[string]bool{"a": false, "b": false, "x": false})
	eventually(t, "b is dead", func() bool { return alive(a) == "a (b)" })
	s := a.Snapshot()
	if got := states(a, "web"); got != "running lost lost" {
		t.Errorf("states %q", got)
	}
	svc, _ := s.Service(model.ServiceID{Stack: model.DefaultStack, Name: "web"})
	if lost := svc.Tasks[1]; lost.InRotation() || lost.Listed() || len(svc.InRotation()) != 1 {
		t.Errorf("a lost task is still used: %+v", lost)
	}
	if c := s.Containers.Find("b", "2"); c == nil || c.Tasks[0].State != model.Lost {
		t.Errorf("its container is %+v", c)
	}
	if got := states(b, "web"); got != "running running unhealthy" {
		t.Errorf("b, which is told nothing, sees %q", got)
	}
	a.SetAlive(map[string]bool{"b": false})
	b.SetLocal(local(ctr("b", "2", "10.0.1.9", "web"), sick))
	eventually(t, "a change on a dead host is followed", func() bool {
		svc, _ := a.Snapshot().Service(model.ServiceID{Stack: model.DefaultStack, Name: "web"})
		return svc.Tasks[1].Addr == netip.MustParseAddr("10.0.1.9")
	})
	if got := states(a, "web"); got != "running lost lost" {
		t.Errorf("states %q", got)
	}
	if n := a.Snapshot().Revision - s.Revision; n != 1 {
		t.Errorf("%d Snapshots for one change", n)
	}
	b.SetLocal(local(ctr("b", "2", "10.0.1.1", "web"), sick))

	a.SetAlive(map[string]bool{"b": true})
	eventually(t, "all is as it was", func() bool { return same(before, a.Snapshot()) })

	// What is kept on disk is what is known, not what is seen.
	a.SetAlive(map[string]bool{"b": false})
	eventually(t, "b is dead again", func() bool { return states(a, "web") == "running lost lost" })
	a.Close()
	cached, err := readCache(a.cachePath(), "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cached.containers {
		if c.Tasks[0].State == model.Lost {
			t.Errorf("container %s is lost in the cache", c.ID)
		}
	}
}

func TestSetSelfReachesSnapshotsAndOtherHosts(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	server := etcdServer(t, shortDir(t))
	a := open(t, "a", dir, at(t, server.endpoint))
	b := open(t, "b", shortDir(t), at(t, server.endpoint))
	a.SetLocal(local())
	b.SetLocal(local())
	subnet := netip.MustParsePrefix("10.244.7.0/24")
	set := func(n *model.Node) {
		n.Name, n.Alive, n.Number, n.Subnet, n.MAC = "x", false, 8, subnet, model.MAC{2, 1}
	}
	a.SetSelf(set)
	known := func(c *Catalog) func() bool {
		return func() bool {
			s := c.Snapshot()
			return s != nil && len(s.Nodes) == 2 && s.Nodes[0].Subnet == subnet && s.Nodes[0].Number == 8 && s.Nodes[0].MAC == model.MAC{2, 1}
		}
	}
	eventually(t, "a sees it", known(a))
	eventually(t, "b sees it", known(b))
	if s := a.Snapshot().Self; s.Name != "a" || !s.Alive || s.Subnet != subnet {
		t.Errorf("self %+v", s)
	}
	settled(t, a)
	rev := a.Snapshot().Revision
	a.SetSelf(set)
	a.SetSelf(func(n *model.Node) { n.Addr = netip.MustParseAddr("192.0.2.77") })
	eventually(t, "a new address", func() bool { return a.Snapshot().Self.Addr == netip.MustParseAddr("192.0.2.77") })
	if n := a.Snapshot().Revision - rev; n != 1 {
		t.Errorf("%d Snapshots", n)
	}
	settled(t, a)
	a.Close()

	// A restart keeps what it is not told, so that the others see no change:
	// with the cache or without it.
	etcdRev := revision(t, client(t, server.endpoint))
	moved := func(o *Options) { o.Self.Addr = netip.MustParseAddr("192.0.2.77") }
	for _, folder := range []string{dir, shortDir(t)} {
		a = open(t, "a", folder, at(t, server.endpoint), untold, moved)
		a.SetLocal(local())
		eventually(t, "a sees it", known(a))
		settled(t, a)
		a.Close()
	}
	if r := revision(t, client(t, server.endpoint)); r != etcdRev {
		t.Errorf("%d writes", r-etcdRev)
	}
}

// untold is a host that has not been told its subnet.
func untold(o *Options) { o.Self.Subnet = netip.Prefix{} }

func TestTasksOnNetworksOfTheirHostAloneAreUnreached(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t))
	b := open(t, "b", shortDir(t), beside(t, a), untold)
	// Both hosts have a network of the same addresses, and b's leased one besides.
	shared := func(c model.Container, stack string) model.Container {
		c.Stack = stack
		return c
	}
	a.SetLocal(local(shared(ctr("a", "1", "172.18.0.2", "web"), "shop")))
	b.SetLocal(local(shared(ctr("b", "2", "172.18.0.2", "web"), "blog"), ctr("b", "3", "10.244.2.2", "web")))
	settled(t, a)
	settled(t, b)
	eventually(t, "on a, only its own", func() bool { return states(a, "web") == "running unreached unreached" })
	eventually(t, "on b, its own", func() bool { return states(b, "web") == "unreached running running" })
	b.SetSelf(func(n *model.Node) { n.Subnet = netip.MustParsePrefix("10.244.2.0/24") })
	eventually(t, "on a, what b's subnet holds", func() bool { return states(a, "web") == "running unreached running" })
	for c, want := range map[*Catalog]string{a: "shop", b: "blog"} {
		if got, _ := c.Snapshot().StackOf(netip.MustParseAddr("172.18.0.2")); got != want {
			t.Errorf("172.18.0.2 is of stack %q, not %s", got, want)
		}
	}
	// What is shared in the store is what the tasks' own host says.
	b.SetSelf(func(n *model.Node) { n.Subnet = netip.MustParsePrefix("172.18.0.0/16") })
	eventually(t, "on a, by another subnet", func() bool { return states(a, "web") == "running running unreached" })
}

func TestPickSubnet(t *testing.T) {
	small := netip.MustParsePrefix("10.244.0.0/22") // of four
	held := func(entries ...string) map[netip.Prefix]subnetRecord {
		m := map[netip.Prefix]subnetRecord{}
		for _, e := range entries {
			var node, p string
			var n uint16
			fmt.Sscan(e, &node, &n, &p)
			m[netip.MustParsePrefix(p)] = subnetRecord{node, n}
		}
		return m
	}
	for name, tc := range map[string]struct {
		pool  string
		bits  int
		avoid string
		held  map[netip.Prefix]subnetRecord
		want  string // "subnet number", with what is released, or part of the error
	}{
		"the first":                                     {want: "10.244.0.0/24 1"},
		"the lowest free":                               {held: held("b 1 10.244.0.0/24", "c 3 10.244.2.0/24"), want: "10.244.1.0/24 2"},
		"its own":                                       {held: held("b 1 10.244.0.0/24", "a 3 10.244.2.0/24"), want: "held 10.244.2.0/24 3"},
		"its own, though it has a route":                {avoid: "10.244.2.0/24", held: held("a 3 10.244.2.0/24"), want: "held 10.244.2.0/24 3"},
		"not what the host routes":                      {avoid: "10.244.0.128/25", want: "10.244.1.0/24 2"},
		"not within what the host routes":               {avoid: "10.244.0.0/23", want: "10.244.2.0/24 3"},
		"larger ones of an older pool":                  {held: held("b 1 10.244.0.0/23"), want: "10.244.2.0/24 3"},
		"numbers of another pool are taken":             {held: held("b 1 10.9.0.0/24"), want: "10.244.1.0/24 2"},
		"another pool: the old one is free":             {held: held("a 5 10.9.4.0/24"), want: "10.244.0.0/24 1 -10.9.4.0/24"},
		"two of its own: the lower":                     {held: held("a 3 10.244.2.0/24", "a 2 10.244.1.0/24"), want: "held 10.244.1.0/24 2 -10.244.2.0/24"},
		"full":                                          {avoid: "10.244.0.0/24", held: held("b 2 10.244.1.0/24", "c 3 10.244.2.0/24", "d 4 10.244.3.0/24"), want: "shoal node rm"},
		"a pool no wider than one":                      {pool: "10.244.0.0/24", want: "10.244.0.0/24 1"},
		"a pool with host bits":                         {pool: "10.244.0.1/22", want: "has host bits"},
		"a pool smaller than its subnets":               {pool: "10.244.0.0/25", want: "cannot be cut"},
		"a large pool, by its number":                   {pool: "10.0.0.0/8", avoid: "10.0.0.0/9", want: "10.128.0.0/24 32769"},
		"the first pool is full":                        {pool: "10.244.0.0/23,10.9.0.0/23", held: held("b 1 10.244.0.0/24", "c 2 10.244.1.0/24"), want: "10.9.0.0/24 3"},
		"a pool was added, and its own is of the first": {pool: "10.244.0.0/23,10.9.0.0/23", held: held("a 2 10.244.1.0/24"), want: "held 10.244.1.0/24 2"},
		"all pools are full":                            {pool: "10.244.0.0/24,10.9.0.0/24", held: held("b 1 10.244.0.0/24", "c 2 10.9.0.0/24"), want: "add a pool"},
		"pools that overlap":                            {pool: "10.244.0.0/16,10.244.4.0/22", want: "overlaps another"},
		"numbers have 16 bits":                          {pool: "10.0.0.0/8", bits: 26, avoid: "10.0.0.0/9", want: "all 65535"},
		"IPv6":                                          {pool: "fd00::/48", bits: 64, avoid: "fd00::/64", want: "fd00:0:0:1::/64 2"},
		"more bits than can be counted":                 {pool: "fd00::/16", bits: 64, want: "cannot be cut"},
		"subnets that are not on the octets":            {bits: 26, held: held("b 1 10.244.0.0/26"), want: "10.244.0.64/26 2"},
	} {
		t.Run(name, func(t *testing.T) {
			pool, bits := model.Pools{small}, 24
			if tc.pool != "" {
				var err error
				if pool, err = model.ParsePools(tc.pool); err != nil {
					t.Fatal(err)
				}
			}
			if tc.bits != 0 {
				bits = tc.bits
			}
			var avoid []netip.Prefix
			if tc.avoid != "" {
				avoid = append(avoid, netip.MustParsePrefix(tc.avoid))
			}
			p, err := pickSubnet("a", 0, pool, bits, avoid, tc.held)
			got := fmt.Sprintf("%s %d", p.subnet, p.number)
			if p.held {
				got = "held " + got
			}
			for _, r := range p.release {
				got += " -" + r.String()
			}
			if err != nil {
				got = err.Error()
			}
			if got != tc.want && (err == nil || !strings.Contains(got, tc.want)) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestHostsClaimSubnetsOnceAndKeepThem(t *testing.T) {
	t.Parallel()
	etcdDir := shortDir(t)
	server := etcdServer(t, etcdDir)
	pool := model.Pools{netip.MustParsePrefix("10.244.0.0/16")}
	const hosts = 6
	all, dirs := make([]*Catalog, hosts), make([]string, hosts)
	for i := range all {
		dirs[i] = shortDir(t)
		all[i] = open(t, fmt.Sprintf("n%d", i), dirs[i], at(t, server.endpoint), untold)
		all[i].SetLocal(local())
	}
	var mu sync.Mutex
	var work sync.WaitGroup
	given := map[uint16]netip.Prefix{}
	numbers := make([]uint16, hosts)
	for i, c := range all {
		work.Go(func() {
			p, n, err := c.ClaimSubnet(t.Context(), pool, 24, nil)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other, twice := given[n]; twice || p != pool.Subnet(24, uint64(n-1)) {
				t.Errorf("%s has number %d, %s too", p, n, other)
			}
			given[n], numbers[i] = p, n
			c.SetSelf(func(self *model.Node) { self.Subnet, self.Number = p, n })
		})
	}
	work.Wait()
	if len(given) != hosts || !given[1].IsValid() {
		t.Fatalf("given: %v", given)
	}
	settled(t, all[0])
	all[0].Close()
	c := open(t, "n0", dirs[0], at(t, server.endpoint), untold)
	if p, n, err := c.ClaimSubnet(t.Context(), pool, 24, []netip.Prefix{given[numbers[0]]}); n != numbers[0] || err != nil {
		t.Errorf("after a restart: %s, %d, %v", p, n, err)
	}
	c.Close()
	server.close()
	c = open(t, "n0", dirs[0], at(t, server.endpoint), untold, inAHurry)
	if p, n, err := c.ClaimSubnet(t.Context(), pool, 24, nil); p != given[numbers[0]] || n != numbers[0] || err != nil {
		t.Errorf("without etcd: %s, %d, %v", p, n, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if p, _, err := c.ClaimSubnet(ctx, model.Pools{netip.MustParsePrefix("10.9.0.0/16")}, 24, nil); !errors.Is(err, model.ErrAway) {
		t.Errorf("without etcd, of a new pool: %s, %v", p, err)
	}
}

// TestAHostKeepsASubnetWhoseClaimIsLost to a backup from before it claimed it.
func TestAHostKeepsASubnetWhoseClaimIsLost(t *testing.T) {
	t.Parallel()
	server := etcdServer(t, shortDir(t))
	pool := model.Pools{netip.MustParsePrefix("10.244.0.0/16")}
	a := open(t, "a", shortDir(t), at(t, server.endpoint), untold)
	a.SetLocal(local())
	first, n, err := a.ClaimSubnet(t.Context(), pool, 24, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.SetSelf(func(self *model.Node) { self.Subnet, self.Number = first, n })
	settled(t, a)
	if r, err := client(t, server.endpoint).Delete(t.Context(), subnetKey(first)); err != nil || r.Deleted != 1 {
		t.Fatal(r, err)
	}
	b := open(t, "b", shortDir(t), at(t, server.endpoint), untold)
	b.SetLocal(local())
	settled(t, b)
	if second, n, err := b.ClaimSubnet(t.Context(), pool, 24, nil); err != nil || second == first || n != 2 {
		t.Errorf("b has %s, %d, %v; a has %s", second, n, err, first)
	}
}

func TestRemoveNode(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t))
	b := open(t, "b", shortDir(t), beside(t, a))
	a.SetLocal(local())
	b.SetLocal(local(ctr("b", "2", "10.0.1.1", "web")))
	eventually(t, "b's task", func() bool { return tasks(a, "web") == "b/2" })
	pool := model.Pools{netip.MustParsePrefix("10.244.0.0/16")}
	taken, _, err := b.ClaimSubnet(t.Context(), pool, 24, nil)
	if err != nil {
		t.Fatal(err)
	}
	settled(t, b)
	for name, want := range map[string]string{"a": "it is this host", "b": "it is alive", "c": "no such node"} {
		if err := a.RemoveNode(t.Context(), name, name == "a"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("remove %s: %v", name, err)
		}
	}
	if err := a.RemoveNode(t.Context(), "c", false); !errors.Is(err, ErrNoNode) {
		t.Error(err)
	}
	b.Close()
	if err := a.RemoveNode(t.Context(), "b", true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b is forgotten", func() bool { return alive(a) == "a" && tasks(a, "web") == "no service" })
	if p, n, err := a.ClaimSubnet(t.Context(), pool, 24, nil); p != taken || n != 1 || err != nil {
		t.Errorf("its subnet is not free: %s, %d, %v", p, n, err)
	}
}

func TestPortsOfTheMesh(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	server := etcdServer(t, shortDir(t))
	a := open(t, "a", dir, at(t, server.endpoint))
	b := open(t, "b", shortDir(t), at(t, server.endpoint))
	a.SetLocal(local())
	b.SetLocal(local())
	shop, blog := model.ServiceID{Stack: "shop", Name: "web"}, model.ServiceID{Stack: "blog", Name: "front"}
	claim := func(proto model.Protocol, number uint16, id model.ServiceID) model.PortClaim {
		return model.PortClaim{Protocol: proto, Port: number, Service: id}
	}
	for _, c := range []model.PortClaim{claim(model.UDP, 53, shop), claim(model.TCP, 8080, shop), claim(model.TCP, 80, shop), claim(model.TCP, 8080, shop)} {
		if err := a.ClaimPort(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	var taken *model.PortTakenError
	if err := b.ClaimPort(t.Context(), claim(model.TCP, 8080, blog)); !errors.As(err, &taken) || taken.Holder != shop || !strings.Contains(err.Error(), "8080/tcp") {
		t.Errorf("another's port: %v", err)
	}
	if err := b.ClaimPort(t.Context(), claim(model.TCP, 0, blog)); err == nil {
		t.Error("port 0 was claimed")
	}
	if err := b.ReleasePort(t.Context(), claim(model.TCP, 8080, blog)); err != nil {
		t.Error(err)
	}
	want := []model.PortClaim{claim(model.TCP, 80, shop), claim(model.TCP, 8080, shop), claim(model.UDP, 53, shop)}
	published := func(c *Catalog, want ...model.PortClaim) func() bool {
		return func() bool { return c.Snapshot() != nil && slices.Equal(c.Snapshot().Published, want) }
	}
	eventually(t, "a sees them", published(a, want...))
	eventually(t, "b sees them", published(b, want...))
	if err := b.ReleasePort(t.Context(), claim(model.TCP, 8080, shop)); err != nil {
		t.Fatal(err)
	}
	if err := b.ClaimPort(t.Context(), claim(model.TCP, 8080, blog)); err != nil {
		t.Errorf("a port that was released: %v", err)
	}
	want[1].Service = blog
	eventually(t, "it changed hands", published(a, want...))

	// More than fit into one transaction go with their service.
	many := model.ServiceID{Stack: "many", Name: "ports"}
	var work sync.WaitGroup
	for w := range 8 {
		work.Go(func() {
			for i := range 32 {
				if err := a.ClaimPort(t.Context(), claim(model.SCTP, uint16(1000+32*w+i), many)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	if err := a.RemoveService(t.Context(), many); err != nil {
		t.Error(err)
	}
	eventually(t, "they are gone", published(a, want...))
	if err := a.RemoveService(t.Context(), many); !errors.Is(err, model.ErrNoService) {
		t.Error(err)
	}
	if err := a.RemoveService(t.Context(), shop); err != nil {
		t.Error(err)
	}
	eventually(t, "only blog's is left", published(b, want[1]))
	eventually(t, "only blog's is left", published(a, want[1]))
	a.Close()
	server.close()
	a = open(t, "a", dir, at(t, server.endpoint), inAHurry)
	a.SetLocal(local())
	eventually(t, "it is known from disk", published(a, want[1]))
}

// TestAPortIsReleasedByManyAtOnce has several hosts let go of a port that is claimed anew meanwhile: none takes the new claim.
func TestAPortIsReleasedByManyAtOnce(t *testing.T) {
	t.Parallel()
	server := etcdServer(t, shortDir(t))
	a := open(t, "a", shortDir(t), at(t, server.endpoint))
	b := open(t, "b", shortDir(t), at(t, server.endpoint))
	a.SetLocal(local())
	b.SetLocal(local())
	for i := range 50 {
		old, young := model.PortClaim{Protocol: model.TCP, Port: 80, Service: model.ServiceID{Stack: "s", Name: fmt.Sprint(i)}}, model.PortClaim{Protocol: model.TCP, Port: 80, Service: model.ServiceID{Stack: "s", Name: fmt.Sprint(i + 1)}}
		if err := a.ClaimPort(t.Context(), old); err != nil {
			t.Fatalf("round %d: it was not left to its holder: %v", i, err)
		}
		var work sync.WaitGroup
		for _, c := range []*Catalog{a, a, b, b} {
			work.Go(func() {
				if err := c.ReleasePort(t.Context(), old); err != nil {
					t.Error(err)
				}
			})
		}
		work.Go(func() {
			for {
				err := b.ClaimPort(t.Context(), young)
				if taken := (*model.PortTakenError)(nil); errors.As(err, &taken) && taken.Holder == old.Service {
					continue // not released yet
				}
				if err != nil {
					t.Error(err)
				}
				return
			}
		})
		work.Wait()
		var taken *model.PortTakenError
		if err := a.ClaimPort(t.Context(), old); !errors.As(err, &taken) || taken.Holder != young.Service {
			t.Fatalf("round %d: the new claim is gone: %v", i, err)
		}
	}
}

func TestKV(t *testing.T) {
	t.Parallel()
	etcdDir := shortDir(t)
	server := etcdServer(t, etcdDir)
	a := open(t, "a", shortDir(t), at(t, server.endpoint))
	b := open(t, "b", shortDir(t), at(t, server.endpoint))
	a.SetLocal(local())
	settled(t, a)
	kv := a.KV()
	tokens, members := b.KV().Watch(t.Context(), "tokens/"), b.KV().Watch(t.Context(), "members/")
	eventually(t, "b has read the store", func() bool { return isClosed(b.listed) })
	for _, ch := range []<-chan struct{}{tokens, members} {
		select {
		case <-ch: // the first reading
		default:
		}
	}
	if v, rev, err := kv.Get(t.Context(), "tokens/1"); v != nil || rev != 0 || err != nil {
		t.Errorf("%q, %d, %v", v, rev, err)
	}
	commit := func(want bool, unchanged map[string]int64, write map[string][]byte) {
		t.Helper()
		if done, err := kv.Commit(t.Context(), unchanged, write); done != want || err != nil {
			t.Errorf("commit: %v, %v", done, err)
		}
	}
	commit(true, map[string]int64{"tokens/1": 0}, map[string][]byte{"tokens/1": []byte("x"), "tokens/2": {}, "tokensX": []byte("y")})
	commit(false, map[string]int64{"tokens/1": 0}, map[string][]byte{"tokens/1": []byte("z")})
	select {
	case <-tokens:
	case <-time.After(5 * time.Second):
		t.Error("not told of a change")
	}
	v, rev, err := b.KV().Get(t.Context(), "tokens/1")
	if string(v) != "x" || rev == 0 || err != nil {
		t.Errorf("%q, %d, %v", v, rev, err)
	}
	commit(false, map[string]int64{"tokens/1": rev - 1}, map[string][]byte{"tokens/1": nil})
	commit(true, map[string]int64{"tokens/1": rev, "tokens/9": 0}, map[string][]byte{"tokens/1": nil})
	all, err := kv.List(t.Context(), "tokens/")
	if v, ok := all["tokens/2"]; len(all) != 1 || !ok || len(v) != 0 || err != nil {
		t.Errorf("%q, %v", all, err)
	}
	if len(members) != 0 {
		t.Error("told of a change of members")
	}
	if n := len(a.Status().Unreadable); n != 0 {
		t.Errorf("%d unreadable records", n)
	}
	server.close()
	etcdServer(t, etcdDir)
	eventually(t, "the store is back", func() bool {
		_, err := kv.Commit(t.Context(), nil, map[string][]byte{"members/a": []byte("x")})
		return err == nil
	})
	select {
	case <-members:
	case <-time.After(10 * time.Second):
		t.Error("not told of a change after the store was away")
	}
}

func TestManyHostsThatStartTogetherAllGetASubnet(t *testing.T) {
	t.Parallel()
	const hosts = 100
	pool := model.Pools{netip.MustParsePrefix("10.244.0.0/16")}
	cl := client(t, etcdServer(t, shortDir(t)).endpoint)
	before := revision(t, cl)
	var mu sync.Mutex
	given := map[netip.Prefix]string{}
	var work sync.WaitGroup
	for i := range hosts {
		name := fmt.Sprintf("host-%d", i)
		c := &Catalog{o: Options{Self: model.Node{Name: name}, cacheAfter: time.Minute}, client: cl, records: newRecords(name)}
		work.Go(func() {
			p, n, err := c.ClaimSubnet(t.Context(), pool, 24, nil)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other, ok := given[p]; ok || p != pool.Subnet(24, uint64(n-1)) {
				t.Errorf("%s is number %d and has %s, as has %q", c.o.Self.Name, n, p, other)
			}
			given[p] = c.o.Self.Name
		})
	}
	work.Wait()
	if n := revision(t, cl) - before; n != hosts {
		t.Errorf("%d revisions for %d hosts", n, hosts)
	}
}
