package conformance

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/lb"
	"shoal/model"
	"shoal/reconcile"
)

// begin has the world as every test finds it: no service, all hosts in the
// cluster and alive, and a plane on host a, or on each.
func (w *world) begin(t *testing.T, mesh bool) {
	t.Helper()
	w.t, w.late = t, 0
	w.services = map[string]*model.Service{}
	w.nodes, w.dead = w.hosts, map[string]bool{}
	for _, h := range w.hosts {
		h.rest()
	}
	w.up = w.hosts[:1]
	for _, h := range w.hosts {
		if mesh || h == w.a || h.dp != nil {
			w.pass(h, false)
		}
	}
	if mesh {
		w.up = w.hosts
	}
}

// start makes the host's plane, where it has none.
func (w *world) start(h *host) {
	w.t.Helper()
	if h.dp != nil {
		return
	}
	h.must(w.t, func() error {
		dp, err := w.plane.New(h.opts)
		if err != nil {
			return err
		}
		h.dp = dp
		if _, err := h.dp.Between(context.Background(), w.between(h)); err != nil {
			return fmt.Errorf("have traffic between hosts pass: %w", err)
		}
		recognise := func(n model.Node) []model.MAC { return []model.MAC{tunnelMAC(n)} }
		h.balancer, err = lb.New(lb.Options{DNS: h.opts.DNS, DNSPeers: h.opts.DNSPeers, Recognise: recognise}, h.dp)
		return err
	})
}

// stop closes the host's plane, as the end of its process does.
func (h *host) stop() {
	h.dp.Close()
	h.dp, h.balancer = nil, nil
}

// down stops the host's plane and takes away what it has left.
func (h *host) down(p *Plane) error {
	h.stop()
	return p.Down(context.Background(), h.opts)
}

// service has tasks in these containers, or on hosts' own networks. The VIP may
// be "".
func (w *world) service(name, vip string, spec model.Spec, in ...string) {
	if spec.Scheduler == "" {
		spec.Scheduler = "rr"
	}
	spec.Mode = model.ModeVIP
	svc := &model.Service{ID: model.ServiceID{Stack: "default", Name: name}, Spec: spec}
	if vip != "" {
		svc.VIP = netip.MustParseAddr(vip)
	}
	for _, c := range in {
		own := spec // which a test may change
		svc.Tasks = append(svc.Tasks, &model.Task{
			Service: svc.ID, Node: w.hostOf(c).name, Container: c, Name: c, Addr: w.names[c].addr,
			State: model.Running, Weight: 1, Drain: 10 * time.Second, Started: time.Unix(1000, 0), Spec: &own,
		})
	}
	w.services[name] = svc
}

// hostOf is the host that a container, or a host's own process, runs on.
func (w *world) hostOf(name string) *host {
	for _, h := range w.hosts {
		if h.name == name || slices.ContainsFunc(h.containers, func(c *container) bool { return c.name == name }) {
			return h
		}
	}
	w.t.Fatalf("no container %s", name)
	return nil
}

// task is one of a service, to be changed.
func (w *world) task(service, container string) *model.Task {
	s := w.services[service]
	for _, t := range s.Tasks {
		if t.Name == container {
			return t
		}
	}
	w.t.Fatalf("service %s has no task %s", service, container)
	return nil
}

// drain has a task told to stop just now.
func (w *world) drain(service, container string, limit time.Duration) {
	t := w.task(service, container)
	t.State, t.Since, t.Drain = model.Draining, time.Now(), limit
}

// lose has the host of a task considered dead since a while.
func (w *world) lose(service, container string, since time.Duration) {
	t := w.task(service, container)
	t.State, t.Since = model.Lost, time.Now().Add(-since)
}

// gone takes a task out of its service.
func (w *world) gone(service, container string) {
	s := w.services[service]
	s.Tasks = slices.DeleteFunc(s.Tasks, func(t *model.Task) bool { return t.Name == container })
}

// ports are ports of a VIP: "80:8080/tcp".
func ports(specs ...string) (s model.Spec) {
	for _, p := range specs {
		port, target, proto := parsePort(p)
		s.Ports = append(s.Ports, model.Port{Port: port, Target: target, Protocol: proto})
	}
	return s
}

// publish are published ports: "8000:80/tcp", "127.0.0.1:8000:80/tcp".
func publish(specs ...string) (s model.Spec) {
	for _, p := range specs {
		var pub model.PublishedPort
		if strings.Count(p, ":") == 2 {
			ip, rest, _ := strings.Cut(p, ":")
			pub.IP, p = netip.MustParseAddr(ip), rest
		}
		pub.Published, pub.Target, pub.Protocol = parsePort(p)
		s.Publish = append(s.Publish, pub)
	}
	return s
}

func parsePort(p string) (port, target uint16, proto model.Protocol) {
	var name string
	if _, err := fmt.Sscanf(strings.ReplaceAll(p, "/", " "), "%d:%d %s", &port, &target, &name); err != nil {
		panic(fmt.Sprintf("port %q: %v", p, err))
	}
	proto, err := model.ParseProtocol(name)
	if err != nil {
		panic(err)
	}
	return port, target, proto
}

// snapshot is the cluster as a host sees it. The first service by name that
// publishes a port holds it.
func (w *world) snapshot(h *host) *model.Snapshot {
	w.revision++
	s := &model.Snapshot{Revision: w.revision, Self: h.node, Networks: h.nets, Resting: h.resting}
	for _, n := range w.nodes {
		node := n.node
		node.Alive = !w.dead[n.name]
		s.Nodes = append(s.Nodes, node)
	}
	claimed := map[lb.Key]bool{}
	for _, name := range slices.Sorted(maps.Keys(w.services)) {
		svc := *w.services[name]
		svc.Tasks = slices.Clone(svc.Tasks)
		for i, t := range svc.Tasks {
			copied := *t // which the test will change
			svc.Tasks[i] = &copied
		}
		s.Services = append(s.Services, &svc)
		for _, t := range svc.Tasks {
			for _, p := range t.Spec.Publish {
				if k := (lb.Key{Protocol: p.Protocol, Port: p.Published}); !claimed[k] {
					claimed[k] = true
					s.Published = append(s.Published, model.PortClaim{Protocol: p.Protocol, Port: p.Published, Service: svc.ID})
				}
			}
		}
	}
	slices.SortFunc(s.Services, func(a, b *model.Service) int { return a.ID.Compare(b.ID) })
	return s
}

// reconcile passes once on every host that the test uses; there must be no
// problem.
func (w *world) reconcile() {
	w.t.Helper()
	for _, h := range w.up {
		w.pass(h, false)
	}
}

// repair has a full pass on every host that the test uses.
func (w *world) repair() {
	w.t.Helper()
	for _, h := range w.up {
		w.pass(h, true)
	}
}

// pass is one pass on a host, to its end; the test ends where there is a
// problem. The first pass of a plane is a full one.
func (w *world) pass(h *host, full bool) reconcile.Result {
	w.t.Helper()
	r := w.try(h, full)
	for _, p := range r.Problems {
		w.t.Errorf("problem on %s: %s %s: %s", h.name, p.Kind, p.Object, p.Reason)
	}
	if len(r.Problems) > 0 {
		w.t.FailNow()
	}
	return r
}

// try is a pass that may have problems.
func (w *world) try(h *host, full bool) (r reconcile.Result) {
	w.t.Helper()
	full = full || h.dp == nil
	w.start(h)
	s := w.snapshot(h)
	h.must(w.t, func() error {
		r = h.balancer.Reconcile(context.Background(), s, full)
		for r.More {
			r = h.balancer.Reconcile(context.Background(), s, false)
		}
		return nil
	})
	return r
}

// writes is how often f writes to the kernel.
func (w *world) writes(f func()) int {
	before := w.plane.writes()
	f()
	return w.plane.writes() - before
}

// idleWrites is how often f writes to the kernel, that is to change nothing. Sockets
// of led clients are closed after the pass that is the reason: what is written for
// that meanwhile ends by itself.
func (w *world) idleWrites(f func()) (n int) {
	n = w.writes(f)
	for tries := 0; tries < 3 && n > 0 && len(w.plane.Led) > 0; tries++ {
		n = w.writes(f)
	}
	return n
}

// nothingWritten passes on a host; nothing must be written.
func (w *world) nothingWritten(h *host, full bool, when string) {
	w.t.Helper()
	if n := w.idleWrites(func() { w.pass(h, full) }); n != 0 {
		w.t.Errorf("%s: a pass (full: %t) with nothing changed made %d writes", when, full, n)
	}
}
