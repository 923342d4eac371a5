package costs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"shoal/catalog"
	"shoal/dnsd"
	"shoal/ingress"
	"shoal/lb"
	"shoal/model"
	"shoal/vip"
)

// The size that the aims are for.
const (
	hosts    = 1000
	services = 10_000
	each     = 10 // tasks a service
)

// kernel is a data plane that does nothing: what it takes in is what the kernel would be told.
type kernel struct{ lb.DataPlane }

func (kernel) Scheduler(name string) string                            { return name }
func (kernel) Reconcile(context.Context, lb.Delta, bool) (r lb.Result) { return r }
func (kernel) Redirects(*lb.Frontend) bool                             { return true }
func (kernel) Stats(func(lb.Key, lb.Stats)) error                      { return nil }
func (kernel) Changed() <-chan struct{}                                { return nil }
func (kernel) Between(context.Context, lb.Between) (bool, error)       { return false, nil }

// node is host number n, of which a thousand fit into the pool 10.240.0.0/12.
func node(n int) model.Node {
	return model.Node{Name: fmt.Sprintf("host-%04d", n), Addr: netip.AddrFrom4([4]byte{192, 168, byte(n >> 8), byte(n)}), Alive: true,
		Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(240 + n>>8), byte(n), 0}), 24), Number: uint16(n + 1)}
}

func service(i int) model.ServiceID {
	return model.ServiceID{Stack: fmt.Sprintf("stack-%d", i%100), Name: fmt.Sprintf("service-%d", i)}
}

// task is the container of task number j of service i.
func task(i, j int, state model.State, published bool) model.Container {
	k := i*each + j
	n, id := node(k%hosts), fmt.Sprintf("%064x", k)
	b := n.Subnet.Addr().As4()
	addr := netip.AddrFrom4([4]byte{b[0], b[1], b[2], byte(2 + k/hosts)})
	spec := model.Spec{Mode: model.ModeVIP, Scheduler: "rr", Ports: []model.Port{{Name: "http", Port: 80, Target: 8080, Protocol: model.TCP}}}
	if published {
		spec.Publish = []model.PublishedPort{{Published: uint16(10_000 + i), Target: 8080, Protocol: model.TCP}}
	}
	return model.Container{ID: id, Name: id[:12], Node: n.Name, Stack: service(i).Stack, Addrs: []netip.Addr{addr}, Since: time.Unix(1, 0),
		Tasks: []model.Task{{Service: service(i), Node: n.Name, Container: id, Name: id[:12], Addr: addr, State: state, Since: time.Unix(1, 0),
			Started: time.Unix(1, 0), Weight: 1, Spec: &spec}}}
}

// cluster is the whole of it, one service in ten published.
func cluster() *catalog.Maker {
	m := catalog.NewMaker(node(0))
	for n := range hosts {
		m.PutNode(node(n))
	}
	for i := range services {
		m.PutVIP(service(i), netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}))
		for j := range each {
			m.PutContainer(task(i, j, model.Running, i%10 == 0))
		}
		if i%10 == 0 {
			m.PutPort(model.PortClaim{Protocol: model.TCP, Port: uint16(10_000 + i), Service: service(i)})
		}
	}
	return m
}

// consumers are those of a host that take each Snapshot, with what each took in all.
type consumers struct {
	all  []consumer
	took map[string]time.Duration
}

type consumer struct {
	name string
	take func(*model.Snapshot)
}

func newConsumers(b *testing.B) *consumers {
	dns, err := dnsd.New(dnsd.Options{Zone: "mesh.internal", Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}, Pool: netip.MustParsePrefix("10.96.0.0/16"), Upstreams: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}})
	if err != nil {
		b.Fatal(err)
	}
	balancer, err := lb.New(lb.Options{}, kernel{})
	if err != nil {
		b.Fatal(err)
	}
	var claimer ingress.Claimer
	vips := vip.New(vip.Options{Pool: netip.MustParsePrefix("10.96.0.0/16")}, nil)
	return &consumers{took: map[string]time.Duration{}, all: []consumer{
		{"dnsd", func(s *model.Snapshot) { dns.Update(s); dns.Problems(s) }},
		{"lb", func(s *model.Snapshot) { balancer.Reconcile(b.Context(), s, false) }},
		{"ingress", func(s *model.Snapshot) { claimer.Claims(s, nil) }},
		{"vip", func(s *model.Snapshot) { vips.Reconcile(b.Context(), s, false) }},
	}}
}

func (c *consumers) take(s *model.Snapshot) {
	for _, one := range c.all {
		start := time.Now()
		one.take(s)
		c.took[one.name] += time.Since(start)
	}
}

// BenchmarkOneChange is what one change of one task costs a host, from its record in etcd to what the data plane is told and DNS
// answers by: in catalog, and in each that takes Snapshots. `make bench PART=rest` measures the whole agent, at fewer hosts.
func BenchmarkOneChange(b *testing.B) {
	for name, change := range map[string]func(i int) (c model.Container, ends bool){
		"state": func(i int) (model.Container, bool) {
			return task(i%services, 3, []model.State{model.Paused, model.Running}[i/services%2], i%10 == 0), false
		},
		"start and end": func(i int) (model.Container, bool) {
			return task(i/2%services, 5, model.Running, i/2%10 == 0), i%2 == 0
		},
	} {
		b.Run(name, func(b *testing.B) {
			m, c := cluster(), newConsumers(b)
			c.take(m.Snapshot())
			clear(c.took)
			var catalog time.Duration
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				ctr, ends := change(i)
				record, err := json.Marshal(ctr)
				b.StartTimer()
				start := time.Now()
				if ends {
					m.DeleteContainer(ctr.Node, ctr.ID)
				} else {
					err = errors.Join(err, m.ReadContainer(ctr.Node, ctr.ID, record))
				}
				if err != nil {
					b.Fatal(err)
				}
				s := m.Snapshot()
				catalog += time.Since(start)
				c.take(s)
			}
			b.ReportMetric(float64(catalog.Microseconds())/float64(b.N), "µs-catalog/op")
			for name, took := range c.took {
				b.ReportMetric(float64(took.Microseconds())/float64(b.N), "µs-"+name+"/op")
			}
		})
	}
}

// BenchmarkMemory is what all of it holds in memory.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		m, c := cluster(), newConsumers(b)
		c.take(m.Snapshot())
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
		runtime.KeepAlive(m)
		runtime.KeepAlive(c)
	}
}
