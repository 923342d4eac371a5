package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/lb"
	"shoal/model"
)

// The aims of a data plane with ten thousand services.
const (
	emptyAim  = 5 * time.Second
	changeAim = 5 * time.Millisecond
)

// apart is the time between changes: those that come in a burst wait for the kernel
// to be done with the ones before.
const apart = 50 * time.Millisecond

// rig is a balancer and its data plane, in this process and in a network namespace of
// their own, without agent, engine or traffic.
type rig struct {
	*bench
	*thread
	opts     lb.PlaneOptions
	front    func(lb.DataPlane) (lb.DataPlane, error) // puts another plane in front; nil: there is none
	plane    *timedPlane
	balancer *lb.Balancer
	snap     *model.Snapshot // the last one
}

// timedPlane is a data plane that tells how long it took.
type timedPlane struct {
	lb.DataPlane
	took time.Duration // all calls of Reconcile together
}

func (p *timedPlane) Reconcile(ctx context.Context, d lb.Delta, full bool) lb.Result {
	defer func(begun time.Time) { p.took += time.Since(begun) }(time.Now())
	return p.DataPlane.Reconcile(ctx, d, full)
}

// dataPlane measures the data plane by itself, and under the balancer: from a
// Snapshot to the kernel.
func (b *bench) dataPlane() {
	const n = 10_000
	b.emptyPlane(n, fakeTasks)
	for _, tasks := range []int{fakeTasks, manyTasks} {
		r := newRig(b)
		r.start()
		r.pass(r.snapshot(n, tasks), true)
		r.verify(n, tasks)
		b.changes(r, n, tasks)
		b.unchangedRestart(r, n, tasks)
		r.must("remove all that the data plane has in the kernel", r.end())
	}
}

func planeLabel(n, tasks int) string {
	return fmt.Sprintf("data plane, %s × %d tasks", services(n), tasks)
}

// emptyPlane measures how long n services take where there is none.
func (b *bench) emptyPlane(n, tasks int) {
	b.Logf("data plane alone: %d services from empty", n)
	var empty, decided []float64
	for range max(1, b.rounds/5) {
		// A namespace each: IPVS keeps destinations that were removed for two minutes, and
		// looks through all of them for each that is added (ip_vs_trash_get_dest).
		r := newRig(b)
		r.start()
		whole, plane := r.pass(r.snapshot(0, tasks), true)
		b.Logf("with no service: %v, the data plane %v", whole, plane)
		whole, plane = r.pass(r.snapshot(n, tasks), false)
		b.Logf("from empty: %v, the data plane %v", whole, plane)
		empty, decided = append(empty, whole.Seconds()), append(decided, plane.Seconds())
		r.must("remove all that the data plane has in the kernel", r.end())
	}
	b.add([]Row{Row{What: planeLabel(n, tasks) + " from empty: Snapshot to kernel", Shoal: quartiles("%.2f", " s", empty),
		Against: quartiles("%.2f", " s", decided) + " of it the data plane"}.within(emptyAim, seconds(empty))})
}

// changes measures what one change takes among n services.
func (b *bench) changes(r *rig, n, tasks int) {
	b.Logf("data plane alone: one change, %d tasks each", tasks)
	var change, plane []float64
	for i := range 25 * b.rounds { // so many that the 99th percentile is not one change
		before := kernel.Total()
		whole, part := r.pass(r.changed(i/2%n, i%2 == 0), false)
		if kernel.Total() == before {
			r.must("change a task", errors.New("nothing was written to the kernel"))
		}
		change, plane = append(change, us(whole)/1e3), append(plane, us(part)/1e3)
		time.Sleep(apart)
	}
	label := planeLabel(n, tasks)
	b.add([]Row{
		Row{What: fmt.Sprintf("%s: one change, Snapshot to kernel, p50 of %d", label, len(change)), Shoal: quartiles("%.2f", " ms", change),
			Against: quartiles("%.2f", " ms", plane) + " of it the data plane"}.within(changeAim, seconds(change)/1e3),
		Row{What: fmt.Sprintf("%s: one change, Snapshot to kernel, p99", label), Shoal: fmt.Sprintf("%.2f ms", percentile(change, 99)),
			Against: fmt.Sprintf("%.2f ms of it the data plane", percentile(plane, 99))}.within(changeAim, time.Duration(1e6*percentile(change, 99))),
	})
}

// unchangedRestart measures a start that finds all as it is to be.
func (b *bench) unchangedRestart(r *rig, n, tasks int) {
	b.Logf("data plane alone: unchanged restart, %d tasks each", tasks)
	var restart []float64
	writes := 0
	for range max(1, b.rounds/5) {
		r.start()
		before := kernel.Total()
		whole, _ := r.pass(r.snap, true)
		writes += kernel.Total() - before
		restart = append(restart, whole.Seconds())
	}
	b.add([]Row{{What: planeLabel(n, tasks) + ": unchanged restart, writes to the kernel", Shoal: fmt.Sprintf("%d writes, in %s", writes, quartiles("%.2f", " s", restart)),
		Aim: "0", Met: writes == 0}})
}

// seconds is the median of times in seconds.
func seconds(all []float64) time.Duration {
	return time.Duration(percentile(all, 50) * float64(time.Second))
}

// quartiles tell the median of figures, and where their middle half lies.
func quartiles(format, unit string, all []float64) string {
	s := spreadOf(all)
	return fmt.Sprintf(format+unit+" ("+format+"–"+format+")", s.median, s.low, s.high)
}

func newRig(b *bench) *rig {
	dir, err := os.MkdirTemp("/run", "bench-")
	b.must("make a folder", err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	r := &rig{bench: b, opts: lb.PlaneOptions{
		Pool: netip.MustParsePrefix("10.96.0.0/16"), DNS: dnsAddr, DNSPeers: dnsAddr.Next(), StateDir: filepath.Join(dir, "state"),
	}}
	r.thread = b.newThread("make a network namespace", func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		self := netlink.NewIPNet(rigNode("a", 1).Addr.AsSlice())
		return errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, &netlink.Addr{IPNet: self}))
	})
	b.Cleanup(func() { _ = r.end() })
	return r
}

// end removes all that the data plane has in the kernel.
func (r *rig) end() error {
	return r.do(func() error {
		r.stop()
		return thePlane().down(context.Background(), r.opts)
	})
}

// start makes the balancer and its plane, anew if there are any: as a start of
// the agent does.
func (r *rig) start() {
	r.must("open the data plane", r.do(func() error {
		r.stop()
		p, err := thePlane().open(r.opts)
		if err != nil {
			return err
		}
		if r.front != nil {
			if p, err = r.front(p); err != nil {
				return err
			}
		}
		r.plane = &timedPlane{DataPlane: p}
		r.balancer, err = lb.New(lb.Options{DNS: r.opts.DNS, DNSPeers: r.opts.DNSPeers}, r.plane)
		return err
	}))
}

func (r *rig) stop() {
	if r.plane != nil {
		r.plane.Close()
		r.plane = nil
	}
}

// pass has the kernel be as a Snapshot says. It tells how long that took, and what of
// it was the data plane's time.
func (r *rig) pass(s *model.Snapshot, full bool) (whole, plane time.Duration) {
	r.snap = s
	r.must("reconcile", r.do(func() error {
		r.plane.took = 0
		begun := time.Now()
		result := r.balancer.Reconcile(context.Background(), s, full)
		for result.More {
			result = r.balancer.Reconcile(context.Background(), s, false)
		}
		whole = time.Since(begun)
		for _, p := range result.Problems {
			return fmt.Errorf("%s %s: %s", p.Kind, p.Object, p.Reason)
		}
		return nil
	}))
	return whole, r.plane.took
}

// verify checks that the kernel has n services of as many tasks: a pass that did nothing would be quick.
func (r *rig) verify(n, tasks int) {
	r.must("look into the kernel", r.do(func() error {
		k, err := thePlane().look()
		if err != nil {
			return err
		}
		defer k.Close()
		held, err := k.vips()
		if err != nil {
			return err
		}
		for i := range n {
			if !held[fakeVIP(i)] {
				return fmt.Errorf("of %d services it has %d VIPs, not that of %s", n, len(held), fakeID(i))
			}
		}
		got, err := k.rotation(fakeVIP(n - 1))
		if err == nil && got != tasks {
			err = fmt.Errorf("%s has %d backends in rotation, not %d", fakeID(n-1), got, tasks)
		}
		return err
	}))
}

func rigNode(name string, number uint16) model.Node {
	return model.Node{Name: name, Number: number, Alive: true, Addr: nth("192.168.77.10", int(number)),
		Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(number), 0}), 24)}
}

// snapshot is a cluster with n services of as many tasks, all on other hosts.
func (r *rig) snapshot(n, tasks int) *model.Snapshot {
	self := rigNode("a", 1)
	s := &model.Snapshot{Self: self, Nodes: []model.Node{self}}
	for i := range fakeNodes {
		s.Nodes = append(s.Nodes, rigNode(fakeNode(i), uint16(2+i)))
	}
	for i := range n {
		svc := &model.Service{ID: fakeID(i), VIP: fakeVIP(i)}
		for task := range tasks {
			svc.Tasks = append(svc.Tasks, &fake(i, task, model.Running).Tasks[0])
		}
		svc.Spec = *svc.Tasks[0].Spec
		s.Services = append(s.Services, svc)
	}
	s.Follow(nil, nil)
	return s
}

// changed is the last Snapshot with the i-th service's first task in another state.
func (r *rig) changed(i int, paused bool) *model.Snapshot {
	s := *r.snap
	s.Revision++
	s.Services = slices.Clone(s.Services)
	svc := *s.Services[i]
	s.Services[i] = &svc
	svc.Tasks = slices.Clone(svc.Tasks)
	task := *svc.Tasks[0] // what the Snapshot before has stays as it is
	task.State = model.Running
	if paused {
		task.State = model.Paused
	}
	svc.Tasks[0] = &task
	s.Follow(r.snap, []model.ServiceID{svc.ID})
	return &s
}
