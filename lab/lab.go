package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"shoal/lab/kernel"
	"shoal/lab/wait"
)

// T is what the lab needs of a test. *testing.T, *testing.B and *testing.F have it.
type T interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

// Lab is a set of machines on one wire. Its methods may be called at the same time, as far as its T may.
type Lab struct {
	*world
	t T
}

// world is what all handles to one lab share.
type world struct {
	dir  string // for sockets, logs and data
	bin  string // where lab, shoal and whoami are
	wire netns.NsHandle
	link *netlink.Handle // in the wire's namespace

	mu       sync.Mutex
	machines map[string]*machine
	outside  *machine
	hosts    int
	image    func() ([]byte, error)
	closed   bool
}

// wire is a link that machines share: a bridge in the wires' namespace. Outside has the first address of its network,
// hosts those from the eleventh on.
type wire struct {
	bridge  string
	dev     string // outside's interface on it
	network netip.Prefix
}

var (
	near = wire{"wire", "eth0", netip.MustParsePrefix("192.168.77.0/24")}
	far  = wire{"far", "eth1", netip.MustParsePrefix("192.168.78.0/24")}
)

func (w wire) addr(n int) netip.Addr {
	base := w.network.Addr().As4()
	base[3] += byte(n)
	return netip.AddrFrom4(base)
}

// New opens a lab for one test, and closes it when the test ends.
func New(t T) *Lab {
	t.Helper()
	l, err := Open()
	if err != nil {
		t.Fatalf("open the lab: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Logf("close the lab: %v", err)
		}
	})
	return l.With(t)
}

// Open opens a lab that outlives a test. Use it With one: by itself it panics where a test would fail. The caller must
// Close it.
func Open() (*Lab, error) {
	self := os.Getenv("LAB")
	if self == "" {
		return nil, errors.New("LAB is not set, so there is no telling what this kernel has: run it as `lab run -- PROGRAM`, or by `make e2e`")
	}
	dir, err := os.MkdirTemp("", "lab-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the lab: %w", err)
	}
	w := &world{dir: dir, bin: filepath.Dir(self), machines: map[string]*machine{}, wire: netns.None()}
	w.image = sync.OnceValues(w.makeImage)
	l := &Lab{w, bare{}}
	if err := w.open(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (w *world) open() error {
	var err error
	if w.wire, err = newNetns(); err != nil {
		return fmt.Errorf("make a namespace for the wire: %w", err)
	}
	if w.link, err = netlink.NewHandleAt(w.wire); err != nil {
		return fmt.Errorf("netlink in the wire's namespace: %w", err)
	}
	if err := w.lay(near); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(w.dir, "bin"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.dir, "bin", "on"), []byte(fmt.Sprintf(onScript, w.dir)), 0o755); err != nil {
		return err
	}
	w.outside, err = w.addMachine("outside", near, 1)
	return err
}

// lay makes a wire's bridge.
func (w *world) lay(on wire) error {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: on.bridge}}
	if err := w.link.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make the bridge %s: %w", on.bridge, err)
	}
	if err := w.link.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("set the bridge %s up: %w", on.bridge, err)
	}
	return nil
}

// onScript runs a command on a machine, from outside the lab's own program.
const onScript = `#!/bin/sh
# usage: on MACHINE COMMAND [ARG...]
dir='%s'/$1
if [ ! -e "$dir/pid" ]; then echo "on: there is no machine '$1'" >&2; exit 125; fi
export SHOAL_RUN_DIR="$dir/run"
if [ -e "$dir/cgroup" ]; then read -r group <"$dir/cgroup"; echo 0 >"$group/cgroup.procs"; fi
shift
exec nsenter --target "$(cat "$dir/pid")" --net --mount --pid --ipc --uts --wd="$PWD" -- "$@"
`

// newNetns makes a network namespace.
func newNetns() (ns netns.NsHandle, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err = netns.New()
	}()
	<-done
	return ns, err
}

// With is the same lab for a test: its failures are the test's.
func (l *Lab) With(t T) *Lab { return &Lab{l.world, t} }

// Dir is the lab's folder. It is gone once the lab is closed.
func (l *Lab) Dir() string { return l.dir }

// Bin is the folder of the script `on`, which runs a command on a machine: `on a docker ps`.
func (l *Lab) Bin() string { return filepath.Join(l.dir, "bin") }

// Outside is a client outside the cluster.
func (l *Lab) Outside() *Machine { return &Machine{l.outside, l.t} }

// Host is the host of that name, with its engine up, made where there is none yet. Names are DNS labels.
func (l *Lab) Host(name string) *Host {
	l.t.Helper()
	return l.Hosts(name)[0]
}

// Hosts is Host for several, whose engines start at the same time.
func (l *Lab) Hosts(names ...string) []*Host {
	l.t.Helper()
	hosts := make([]*Host, len(names))
	errs := make([]error, len(names))
	var starting sync.WaitGroup
	for i, name := range names {
		m, fresh, err := l.host(name, near)
		if err != nil {
			errs[i] = err
			break
		}
		hosts[i] = &Host{Machine{m, l.t}}
		hosts[i].logsOnFailure()
		if fresh {
			starting.Go(func() { errs[i] = hosts[i].tryStartDocker() })
		}
	}
	starting.Wait()
	if err := errors.Join(errs...); err != nil {
		l.t.Fatalf("start hosts %v: %v", names, err)
	}
	return hosts
}

// Far is Host, for one that is made on a link of its own: outside routes between the two.
func (l *Lab) Far(name string) *Host {
	l.t.Helper()
	if _, _, err := l.host(name, far); err != nil {
		l.t.Fatalf("make host %s: %v", name, err)
	}
	h := l.Host(name)
	if h.engine == nil {
		h.StartDocker()
	}
	return h
}

// reach has outside route to a wire, laid now if it was not.
func (w *world) reach(on wire) error {
	if _, err := w.link.LinkByName(on.bridge); err == nil {
		return nil
	}
	if err := w.lay(on); err != nil {
		return err
	}
	if err := w.outside.plugInto(on, on.dev, on.addr(1)); err != nil {
		return err
	}
	_, err := w.outside.try(nil, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	return err
}

// host finds or makes the machine of a host.
func (w *world) host(name string, on wire) (m *machine, fresh bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.machines[name]; m != nil {
		return m, false, nil
	}
	if err := w.reach(on); err != nil {
		return nil, false, err
	}
	w.hosts++
	m, err = w.addMachine(name, on, 10+w.hosts)
	if err != nil {
		return nil, false, err
	}
	m.number = w.hosts
	w.machines[name] = m
	return m, true, nil
}

// Close ends all that runs in the lab and removes it. Closing it again does nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var errs []error
	for _, m := range append(slices.Collect(maps.Values(l.machines)), l.outside) {
		if m != nil {
			errs = append(errs, m.close())
		}
	}
	clear(l.machines)
	if l.link != nil {
		l.link.Close()
	}
	if l.wire.IsOpen() {
		errs = append(errs, l.wire.Close())
	}
	errs = append(errs, kernel.RemoveControlGroups(l.controlGroup()), os.RemoveAll(l.dir))
	return errors.Join(errs...)
}

// bare is the T of a lab without a test.
type bare struct{}

func (bare) Helper()                           {}
func (bare) Name() string                      { return "lab" }
func (bare) Logf(format string, args ...any)   { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (bare) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (bare) Failed() bool                      { return false }
func (bare) Cleanup(func())                    {}

// Eventually waits for what to come true: that check returns no error. It fails the test with check's last error
// where that takes longer than limit.
func Eventually(t T, limit time.Duration, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := wait.Until(ctx, check); err != nil {
		t.Fatalf("not within %v: %s: %v", limit, what, err)
	}
}
