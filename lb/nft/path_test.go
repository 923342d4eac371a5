//go:build e2e

package nft

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"shoal/lb"
	"shoal/model"
)

// BenchmarkPath compares, in pairs, connections to a VIP with those to a task's
// own address, from a container on the tasks' bridge: new ones, and requests on
// one that is kept. Run it with -benchtime 1x.
func BenchmarkPath(b *testing.B) {
	s := newSite(b)
	for range b.N {
		for _, n := range []int{1, 1000, 10000} {
			s.fill(n)
			for name, measure := range map[string]func(string) float64{"new": s.newConnections, "kept": s.keptRequests} {
				b.Run(fmt.Sprintf("%s/%d-services", name, n), func(b *testing.B) {
					var ratios, rates []float64
					for i := range 40 {
						var direct, vip float64
						if i%2 == 0 {
							direct, vip = measure(siteTasks[0]), measure(siteVIP)
						} else {
							vip, direct = measure(siteVIP), measure(siteTasks[0])
						}
						ratios, rates = append(ratios, vip/direct), append(rates, vip)
					}
					slices.Sort(ratios)
					slices.Sort(rates)
					b.ReportMetric(ratios[len(ratios)/2], "VIP/direct")
					b.ReportMetric(rates[len(rates)/2], "VIP/s")
				})
			}
		}
	}
}

// site is a host with a bridge, a client and two tasks on it.
type site struct {
	tb     testing.TB
	host   netns.NsHandle
	client netns.NsHandle
	p      *Plane
}

const siteVIP = "10.96.0.1:80"

var siteTasks = []string{"10.244.1.2:80", "10.244.1.3:80"}

func newSite(tb testing.TB) *site {
	runtime.LockOSThread() // and never unlocked
	s := &site{tb: tb}
	var err error
	s.host, err = netns.New()
	s.ok(err)
	s.up("lo")
	s.ok(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	s.ok(os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0))
	s.ok(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "mesh"}}))
	s.address("mesh", "10.244.1.1/24")
	s.client = s.container("client", "10.244.1.9/24")
	for i, t := range siteTasks {
		ns := s.container(fmt.Sprint("t", i), netip.MustParseAddrPort(t).Addr().String()+"/24")
		s.in(ns, func() {
			l, err := net.Listen("tcp4", ":80")
			s.ok(err)
			tb.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						b := make([]byte, 64)
						for {
							if _, err := c.Read(b); err != nil {
								return
							}
							if _, err := c.Write(b[:1]); err != nil {
								return
							}
						}
					}()
				}
			}()
		})
	}
	s.p, err = New(lb.PlaneOptions{Pool: prefix("10.96.0.0/16"), StateDir: tb.TempDir()})
	s.ok(err)
	tb.Cleanup(s.p.Close)
	return s
}

// fill has the plane carry n services, the site's own among them.
func (s *site) fill(n int) {
	fs := many(n)
	k := lb.Key{VIP: netip.MustParseAddrPort(siteVIP).Addr(), Protocol: model.TCP}
	f := &lb.Frontend{Key: k, Service: model.ServiceID{Name: "site"}, Scheduler: "rr"}
	endpoints := map[netip.Addr]*lb.Endpoint{}
	for _, t := range siteTasks {
		a := netip.MustParseAddrPort(t).Addr()
		f.Backends = append(f.Backends, lb.Backend{Addr: netip.AddrPortFrom(a, 0), Weight: 1, Local: true})
		endpoints[a] = &lb.Endpoint{Local: true}
	}
	fs[k] = f
	for _, f := range fs {
		for _, b := range f.Backends {
			if endpoints[b.Addr.Addr()] == nil {
				endpoints[b.Addr.Addr()] = &lb.Endpoint{}
			}
		}
	}
	subnet := prefix("10.244.1.0/24")
	base := &lb.Base{Self: model.Node{Name: "a", Addr: netip.MustParseAddr("10.244.1.1"), Subnet: subnet},
		Networks: []model.Network{{Bridge: "mesh", Subnets: []netip.Prefix{subnet}}}, Inside: []netip.Prefix{subnet}}
	r := s.p.Reconcile(context.Background(), lb.Delta{Base: base, Frontends: fs, Endpoints: endpoints}, true)
	for _, f := range r.Failures {
		s.tb.Fatalf("%+v: %v", f.Object, f.Err)
	}
}

// batch is how many connections or requests are timed together: short, so that
// both of a pair see the same machine.
const (
	newBatch  = 500
	keptBatch = 3000
)

func (s *site) newConnections(to string) (perSecond float64) {
	s.in(s.client, func() {
		b := make([]byte, 1)
		begun := time.Now()
		for range newBatch {
			c, err := net.Dial("tcp4", to)
			s.ok(err)
			c.(*net.TCPConn).SetLinger(0) // its port is free at once
			_, err = c.Write([]byte("?"))
			s.ok(err)
			_, err = io.ReadFull(c, b)
			s.ok(err)
			c.Close()
		}
		perSecond = newBatch / time.Since(begun).Seconds()
	})
	return perSecond
}

func (s *site) keptRequests(to string) (perSecond float64) {
	s.in(s.client, func() {
		c, err := net.Dial("tcp4", to)
		s.ok(err)
		defer c.Close()
		b := make([]byte, 1)
		begun := time.Now()
		for range keptBatch {
			_, err = c.Write([]byte("?"))
			s.ok(err)
			_, err = io.ReadFull(c, b)
			s.ok(err)
		}
		perSecond = keptBatch / time.Since(begun).Seconds()
	})
	return perSecond
}

func (s *site) ok(err error) {
	s.tb.Helper()
	if err != nil {
		s.tb.Fatal(err)
	}
}

func (s *site) up(name string) {
	l, err := netlink.LinkByName(name)
	s.ok(err)
	s.ok(netlink.LinkSetUp(l))
}

func (s *site) address(device, a string) {
	l, err := netlink.LinkByName(device)
	s.ok(err)
	parsed, err := netlink.ParseAddr(a)
	s.ok(err)
	s.ok(netlink.AddrAdd(l, parsed))
	s.up(device)
}

func (s *site) container(name, a string) netns.NsHandle {
	ns, err := netns.New()
	s.ok(err)
	s.ok(netns.Set(s.host))
	bridge, err := netlink.LinkByName("mesh")
	s.ok(err)
	s.ok(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v" + name, MasterIndex: bridge.Attrs().Index}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}))
	s.up("v" + name)
	s.in(ns, func() {
		s.up("lo")
		s.address("eth0", a)
		s.ok(netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(10, 244, 1, 1)}))
	})
	return ns
}

// in runs f on a thread in that namespace, which is thrown away.
func (s *site) in(ns netns.NsHandle, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		s.ok(netns.Set(ns))
		f()
	}()
	<-done
}
