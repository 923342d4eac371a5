package bench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/lab/kernel"
	"shoal/lb"
	"shoal/lb/socket"
)

// flatAim is how much longer connect() may take with many services than with one: always to the same VIP, or,
// where another is picked each time, than a connection straight to one of as many tasks, which takes longer too.
const flatAim = 1.05

// connector makes connections to VIPs of a rig whose connections are led in connect(). All tasks' addresses are
// the rig's own, and one listener answers there.
type connector struct {
	*rig
	services int
	group    string // its sockets are led
	pins     string // of the programs
	listener int
}

// connects measures connect() with more and more services in the maps.
func (b *bench) connects() []Row {
	var rigs []*connector
	for _, n := range []int{1, 1_000, 10_000} {
		b.Logf("connect() by itself: %s", services(n))
		rigs = append(rigs, b.newConnector(n))
	}
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	b.must("have the kernel time programs", err)
	programs := b.runs(rigs)
	b.must("have the kernel time programs no more", stats.Close())

	b.Logf("connect() by itself: in turns")
	var toSame, toAny, straight []side
	for _, r := range rigs {
		toSame = append(toSame, b.within(r.group, r.connect(func(int) netip.Addr { return fakeVIP(r.services / 2) })))
		toAny = append(toAny, b.within(r.group, r.connect(fakeVIP)))
		straight = append(straight, b.within(b.home, r.connect(func(i int) netip.Addr { return fakeAddr(i, 0) })))
	}
	t := b.compare(slices.Concat(toSame, toAny, straight)...)
	b.leaveGroups()

	any, direct := len(rigs), 2*len(rigs) // the first of these sides
	µs := func(side int) string { return fmt.Sprintf("%.1f µs", us(t.time(side, 50))) }
	var rows, same, other []Row
	for i, r := range rigs {
		rows = append(rows, Row{What: fmt.Sprintf("connect() to a VIP picked from %s, p50", services(r.services)),
			Shoal:   fmt.Sprintf("%s, of it the program %.2f µs", µs(any+i), programs[i]),
			Against: µs(direct+i) + " straight to a task picked from as many", Ratio: t.times(any+i, direct+i)})
		if i > 0 {
			label := fmt.Sprintf("connect(), from 1 to %s, p50: ", services(r.services))
			same = append(same, Row{What: label + "always to the same VIP", Shoal: µs(i), Against: µs(0) + " with 1", Ratio: t.times(i, 0)}.atMostTimes(flatAim))
			other = append(other,
				Row{What: label + "to a VIP picked from all", Shoal: µs(any + i), Against: µs(any) + " with 1", Ratio: t.times(any+i, any)},
				Row{What: label + "straight to a task picked from as many", Shoal: µs(direct + i), Against: µs(direct) + " with 1", Ratio: t.times(direct+i, direct)},
				Row{What: label + "the first of these beside the second", Ratio: t.growth(any+i, any, direct+i, direct)}.atMostTimes(flatAim))
		}
	}
	return slices.Concat(rows, same, other)
}

// runs is how long, in µs, the program of connect() runs on average with each rig's services. The
// kernel measures that (BPF_ENABLE_STATS), which takes time itself: so it is done apart from the rest.
func (b *bench) runs(rigs []*connector) []float64 {
	var all []float64
	for _, r := range rigs {
		before := r.programStats()
		b.enterGroup(r.group)
		for range b.rounds * 20 {
			_, err := r.connect(fakeVIP)()
			b.must("connect", err)
		}
		after := r.programStats()
		n := after.RunCount - before.RunCount
		if n == 0 {
			b.Fatalf("the program of %s did not run", r.group)
		}
		all = append(all, us(after.Runtime-before.Runtime)/float64(n))
	}
	b.leaveGroups()
	return all
}

// newConnector makes a rig with n services, and has connections to them led. This process has to be in
// its group for that, and stays there.
func (b *bench) newConnector(n int) *connector {
	r := &connector{rig: newRig(b), services: n}
	top := kernel.UnifiedHierarchy()
	if top == "" {
		b.Fatalf("this kernel has no control groups of version 2 mounted")
	}
	parent := filepath.Join(top, os.Getenv("LAB_NAME"), fmt.Sprintf("bench-%d", n))
	b.must("make a control group", os.MkdirAll(parent, 0o755))
	b.Cleanup(func() { _ = os.Remove(parent) })
	r.group = b.newGroup(parent)

	bpf := filepath.Join(filepath.Dir(r.opts.StateDir), "bpf")
	b.must("make a folder", os.Mkdir(bpf, 0o755))
	b.must("mount a BPF file system", unix.Mount("bpf", bpf, "bpf", 0, ""))
	b.Cleanup(func() { _ = unix.Unmount(bpf, unix.MNT_DETACH) })
	r.pins = filepath.Join(bpf, "shoal")
	o := socket.Options{PlaneOptions: r.opts, Cgroup: r.group, Pins: r.pins}
	b.Cleanup(func() {
		if err := socket.Down(o); err != nil {
			b.Logf("remove what leads connections: %v", err)
		}
	})
	r.front = func(next lb.DataPlane) (lb.DataPlane, error) {
		o := o
		o.Next = next
		return socket.New(o)
	}
	b.enterGroup(r.group)
	r.start()
	r.pass(r.snapshot(n, fakeTasks), true)
	r.verify(n, fakeTasks)
	b.must("listen for all tasks", r.do(r.listen))
	c := &caller{bench: b, thread: r.thread}
	path{c, netip.Addr{}, netip.AddrPortFrom(fakeVIP(n-1), port)}.mustLead(fakeAddr(n-1, 0), fakeAddr(n-1, 1))
	b.must("take the connection", r.do(func() error { return r.take(-1) }))
	return r
}

// listen makes all addresses of tasks those of the calling thread's network namespace, and listens there.
func (r *connector) listen() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for task := range fakeTasks {
		to := netip.PrefixFrom(fakeAddr(0, task), 16)
		if err := netlink.RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST,
			Dst: &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), 32)},
		}); err != nil {
			return err
		}
	}
	if r.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	r.Cleanup(func() { unix.Close(r.listener) })
	if err := unix.Bind(r.listener, &unix.SockaddrInet4{Port: port}); err != nil {
		return err
	}
	return unix.Listen(r.listener, 1)
}

// connect makes connections, each to what addr says of a service that is picked by chance. Only connect()
// itself is timed.
func (r *connector) connect(addr func(int) netip.Addr) side {
	return func() (times []time.Duration, err error) {
		err = r.do(func() error {
			for range burstLength {
				to := &unix.SockaddrInet4{Port: port, Addr: addr(rand.IntN(r.services)).As4()}
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				begun := time.Now()
				err = unix.Connect(fd, to)
				times = append(times, time.Since(begun))
				if err := errors.Join(err, r.take(fd)); err != nil {
					return fmt.Errorf("connect to %v: %w", to.Addr, err)
				}
			}
			return nil
		})
		return times, err
	}
}

// take accepts a connection and ends it by a reset, so that no end stays in TIME_WAIT. Then it closes the
// client's socket, unless that is -1.
func (r *connector) take(client int) error {
	server, _, err := unix.Accept4(r.listener, unix.SOCK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("accept a connection: %w", err)
	}
	errs := []error{unix.SetsockoptLinger(server, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), unix.Close(server)}
	if client >= 0 {
		errs = append(errs, unix.Close(client))
	}
	return errors.Join(errs...)
}

// programStats are what the kernel counted of the program that leads connections.
func (r *connector) programStats() *ebpf.ProgramStats {
	stats, err := func() (*ebpf.ProgramStats, error) {
		l, err := link.LoadPinnedLink(filepath.Join(r.pins, "connect4"), nil)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		info, err := l.Info()
		if err != nil {
			return nil, err
		}
		p, err := ebpf.NewProgramFromID(info.Program)
		if err != nil {
			return nil, err
		}
		defer p.Close()
		return p.Stats()
	}()
	r.must("read how long a program ran", err)
	return stats
}
