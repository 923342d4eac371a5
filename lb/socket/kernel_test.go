//go:build e2e

package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel/sockets"
	"shoal/lab/wait"
	"shoal/lb"
	"shoal/model"
)

// cgroupRoot is the root of the hierarchy of version 2. A kernel that boots for
// the tests alone may have it nowhere.
func cgroupRoot(t *testing.T) string {
	t.Helper()
	const unified = "/sys/fs/cgroup/unified"
	for _, folder := range []string{"/sys/fs/cgroup", unified} {
		if _, err := checkCgroup(folder); err == nil {
			return folder
		}
	}
	if err := os.MkdirAll(unified, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("cgroup2", unified, "cgroup2", 0, ""); err != nil {
		t.Fatalf("mount the cgroups of version 2: %v", err)
	}
	return unified
}

// ownCgroup moves the test process into a new cgroup, until the test ends.
func ownCgroup(t *testing.T) (folder string) {
	t.Helper()
	root := cgroupRoot(t)
	folder, err := os.MkdirTemp(root, "shoal-test-")
	if err != nil {
		t.Fatal(err)
	}
	enter := func(folder string) error {
		return os.WriteFile(filepath.Join(folder, "cgroup.procs"), []byte("0"), 0)
	}
	if err := enter(folder); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := enter(root); err != nil {
			t.Error(err)
		}
		removeCgroup(t, folder)
	})
	return folder
}

// removeCgroup removes one as soon as the last thread of its has ended.
func removeCgroup(t *testing.T, folder string) {
	t.Helper()
	wait.For(t, 10*time.Second, "nobody is in the cgroup "+folder, func() bool {
		err := os.Remove(folder)
		return err == nil || errors.Is(err, fs.ErrNotExist)
	})
}

// room is a network namespace with a thread in it. Tasks are listeners on
// loopback addresses there.
type room struct {
	t    *testing.T
	work chan func()
}

func newRoom(t *testing.T) *room {
	t.Helper()
	r := &room{t: t, work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range r.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(r.work) })
	r.must(func() error {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		return err
	})
	return r
}

func (r *room) do(f func() error) (err error) {
	done := make(chan struct{})
	r.work <- func() { defer close(done); err = f() }
	<-done
	return err
}

func (r *room) must(f func() error) {
	r.t.Helper()
	if err := r.do(f); err != nil {
		r.t.Fatal(err)
	}
}

// The tasks of every room, by name.
var taskAddrs = map[string]netip.Addr{
	"one": netip.MustParseAddr("127.1.0.1"), "two": netip.MustParseAddr("127.1.0.2"), "three": netip.MustParseAddr("127.1.0.3"),
}

// serve has every task answer on ports, by TCP and UDP, with its name and the
// port; by TCP, it then echoes.
func (r *room) serve(ports ...uint16) {
	for name, a := range taskAddrs {
		for _, n := range ports {
			answer := fmt.Sprintf("%s:%d\n", name, n)
			r.must(func() error {
				l, err := net.Listen("tcp4", netip.AddrPortFrom(a, n).String())
				if err != nil {
					return err
				}
				r.t.Cleanup(func() { l.Close() })
				go acceptAll(l, answer)
				c, err := net.ListenPacket("udp4", netip.AddrPortFrom(a, n).String())
				if err != nil {
					return err
				}
				r.t.Cleanup(func() { c.Close() })
				go answerAll(c, answer)
				return nil
			})
		}
	}
}

func acceptAll(l net.Listener, answer string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.WriteString(c, answer)
			io.Copy(c, c)
		}()
	}
}

func answerAll(c net.PacketConn, answer string) {
	b := make([]byte, 100)
	for {
		_, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		c.WriteTo([]byte(answer), from)
	}
}

// socket is one that a client has.
type socket struct {
	fd   int
	kind int
}

// connect makes a socket of the family AF_INET or AF_INET6, there with an
// IPv4-mapped address, bound to an address if that is valid.
func (r *room) connect(family, kind int, to string, from netip.Addr) (s *socket, err error) {
	err = r.do(func() error {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		s = &socket{fd: fd, kind: kind}
		limit := unix.Timeval{Sec: 3}
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
		if from.IsValid() {
			if err := unix.Bind(fd, sockaddr(family, netip.AddrPortFrom(from, 0))); err != nil {
				return err
			}
		}
		return unix.Connect(fd, sockaddr(family, netip.MustParseAddrPort(to)))
	})
	if err != nil && s != nil {
		unix.Close(s.fd)
	}
	return s, err
}

func sockaddr(family int, a netip.AddrPort) unix.Sockaddr {
	if family == unix.AF_INET6 {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

func unmapped(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// hear reads who answers, of datagrams after sending one, and from where.
func (s *socket) hear() (who string, from netip.AddrPort, err error) {
	if s.kind == unix.SOCK_DGRAM {
		if _, err := unix.Write(s.fd, []byte("?")); err != nil {
			return "", from, err
		}
	}
	b := make([]byte, 100)
	n, at, err := unix.Recvfrom(s.fd, b, 0)
	if err != nil {
		return "", from, err
	}
	return strings.TrimSpace(string(b[:n])), unmapped(at), nil
}

func (s *socket) peer() netip.AddrPort {
	a, err := unix.Getpeername(s.fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return unmapped(a)
}

// close closes it, once.
func (s *socket) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
	s.fd = -1
}

// ask makes one connection and tells who answers.
func (r *room) ask(kind int, to string) (string, error) {
	s, err := r.connect(unix.AF_INET, kind, to, netip.Addr{})
	if err != nil {
		return "", err
	}
	defer s.close()
	who, _, err := s.hear()
	return who, err
}

// answers are who answers n connections by TCP, in order.
func (r *room) answers(n int, to string) (all []string) {
	r.t.Helper()
	for range n {
		who, err := r.ask(unix.SOCK_STREAM, to)
		if err != nil {
			r.t.Fatalf("%s: %v", to, err)
		}
		who, _, _ = strings.Cut(who, ":")
		all = append(all, who)
	}
	return all
}

// notLed tells that a VIP goes on as it is, to where there is nobody here.
func (r *room) notLed(kind int, to string) {
	r.t.Helper()
	s, err := r.connect(unix.AF_INET, kind, to, netip.Addr{})
	if err == nil {
		who, _, _ := s.hear()
		s.close()
		r.t.Errorf("%s: led to %s", to, who)
	} else if !errors.Is(err, unix.ENETUNREACH) {
		r.t.Errorf("%s: %v, want %v", to, err, unix.ENETUNREACH)
	}
}

// behind is a plane that carries nothing: what is not led goes nowhere.
type behind struct {
	lb.DataPlane
	mu    sync.Mutex
	pass  func(lb.Delta) // while it takes in a change
	more  bool
	stats map[lb.Key]lb.Stats
}

func (b *behind) Name() string { return "nothing" }
func (b *behind) Scheduler(name string) string {
	if name == "nosuch" {
		return "rr"
	}
	return name
}
func (b *behind) Reconcile(_ context.Context, d lb.Delta, _ bool) lb.Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pass != nil {
		b.pass(d)
	}
	return lb.Result{More: b.more}
}
func (b *behind) Held(netip.Addr) (lb.Held, error) { return lb.Held{Connections: 1, Open: true}, nil }
func (b *behind) Stats(visit func(lb.Key, lb.Stats)) error {
	for k, s := range b.stats {
		visit(k, s)
	}
	return nil
}
func (b *behind) Changed() <-chan struct{} { return nil }
func (b *behind) Close()                   {}
func (b *behind) Inspect(_ context.Context, k lb.Key) (*lb.View, error) {
	if k.Published() {
		return &lb.View{}, nil
	}
	return &lb.View{Fronts: []lb.FrontView{{Key: k, Open: true}}}, nil
}

// fixture is a plane in a cgroup of the test's own.
type fixture struct {
	*Plane
	*room
	opts Options
	next *behind
	log  *strings.Builder
}

func newFixture(t *testing.T, change ...func(*Options)) *fixture {
	t.Helper()
	f := &fixture{room: newRoom(t), next: &behind{}, log: &strings.Builder{}}
	f.opts = Options{
		Cgroup: ownCgroup(t), Pins: bpfFolder + "/shoal-test", Next: f.next,
		Reconnect: func(ctx context.Context, peers map[uint64]sockets.Peer, led func(uint64) netip.AddrPort) (found map[uint64]error, err error) {
			f.must(func() error { found, err = sockets.ReconnectHere(ctx, peers, led); return nil })
			return found, err
		},
		Destroy: func(ctx context.Context, cookies map[uint64]sockets.States) (n int, err error) {
			f.must(func() error { n, err = sockets.DestroyHere(ctx, cookies); return nil })
			return n, err
		},
	}
	f.opts.Log = slog.New(slog.NewTextHandler(f.log, nil))
	for _, c := range change {
		c(&f.opts)
	}
	t.Cleanup(func() {
		if f.Plane != nil {
			f.Plane.Close()
		}
		if err := Down(f.opts); err != nil {
			t.Error(err)
		}
	})
	if err := Down(f.opts); err != nil { // of a test that was killed
		t.Fatal(err)
	}
	f.start()
	f.serve(80, 8080)
	return f
}

func (f *fixture) start() {
	f.t.Helper()
	f.must(func() (err error) { f.Plane, err = New(f.opts); return err })
}

// restart has a new process take over.
func (f *fixture) restart() {
	f.t.Helper()
	f.Plane.Close()
	f.start()
}

// pass has the frontends carried, and the others not any more.
func (f *fixture) pass(full bool, fs ...*lb.Frontend) lb.Result {
	f.t.Helper()
	r := f.try(full, fs...)
	for _, x := range r.Failures {
		f.t.Errorf("failure of %+v: %v", x.Object, x.Err)
	}
	return r
}

func (f *fixture) try(full bool, fs ...*lb.Frontend) lb.Result {
	d := lb.Delta{Frontends: map[lb.Key]*lb.Frontend{}}
	f.mu.Lock()
	for k := range f.frontends {
		d.Frontends[k] = nil
	}
	f.mu.Unlock()
	for _, x := range fs {
		d.Frontends[x.Key] = x
	}
	return f.Reconcile(context.Background(), d, full)
}

const vip = "10.96.0.50"

// front is a frontend: "80/tcp", "0/udp"; its tasks are "one", "two:8080", with
// weight 1.
func front(at string, scheduler string, tasks ...string) *lb.Frontend {
	var n uint16
	var name string
	if _, err := fmt.Sscanf(strings.ReplaceAll(at, "/", " "), "%d %s", &n, &name); err != nil {
		panic(err)
	}
	proto, err := model.ParseProtocol(name)
	if err != nil {
		panic(err)
	}
	x := &lb.Frontend{Key: lb.Key{VIP: netip.MustParseAddr(vip), Protocol: proto, Port: n}, Scheduler: scheduler}
	for _, task := range tasks {
		name, target, _ := strings.Cut(task, ":")
		var p uint16
		fmt.Sscan(target, &p)
		x.Backends = append(x.Backends, lb.Backend{Addr: netip.AddrPortFrom(taskAddrs[name], p), Weight: 1})
	}
	return x
}
