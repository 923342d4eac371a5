//go:build e2e

package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"shoal/kernel/sockets"
	"shoal/lab"
	"shoal/lab/kernel"
	"shoal/lb"
	"shoal/lb/conformance"
	"shoal/lb/host"
	"shoal/lb/ipvs"
	"shoal/lb/nft"
)

// fleet has the hosts of the suite each in a cgroup of its own, as their
// processes are threads of this one.
type fleet struct {
	folder string // a cgroup, with one for each host
	udp    bool   // is led too

	mu     sync.Mutex
	spaces []netns.NsHandle // of hosts and containers
}

func newFleet(t *testing.T, udp bool) *fleet {
	f := &fleet{folder: ownCgroup(t), udp: udp}
	t.Cleanup(func() {
		for _, h := range []string{"a", "b", "c"} {
			removeCgroup(t, f.cgroup(h))
		}
	})
	return f
}

func (f *fleet) cgroup(host string) string { return filepath.Join(f.folder, host) }

// join moves the calling thread into a host's cgroup.
func (f *fleet) join(host string) error {
	folder := f.cgroup(host)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	kind := filepath.Join(folder, "cgroup.type")
	if is, err := os.ReadFile(kind); err != nil || string(is) != "threaded\n" {
		if err := os.WriteFile(kind, []byte("threaded"), 0); err != nil {
			return fmt.Errorf("make the cgroup %s one of threads: %w", folder, err)
		}
	}
	ns, err := netns.Get()
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.spaces = append(f.spaces, ns)
	f.mu.Unlock()
	return os.WriteFile(filepath.Join(folder, "cgroup.threads"), fmt.Appendf(nil, "%d", unix.Gettid()), 0)
}

// destroy closes sockets, wherever they are.
func (f *fleet) destroy(ctx context.Context, cookies map[uint64]sockets.States) (closed int, err error) {
	return closed, f.everywhere(func() error {
		n, err := sockets.DestroyHere(ctx, cookies)
		closed += n
		return err
	})
}

// reconnect connects sockets again, wherever they are.
func (f *fleet) reconnect(ctx context.Context, peers map[uint64]sockets.Peer, led func(uint64) netip.AddrPort) (found map[uint64]error, err error) {
	found = map[uint64]error{}
	return found, f.everywhere(func() error {
		here, err := sockets.ReconnectHere(ctx, peers, led)
		maps.Copy(found, here)
		return err
	})
}

// everywhere runs f in each namespace, until it fails.
func (f *fleet) everywhere(do func() error) (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: it ends in another namespace than it began in
		for _, ns := range f.spaces {
			if err = netns.Set(ns); err != nil {
				return
			}
			if err = do(); err != nil {
				return
			}
		}
	}()
	<-done
	return err
}

// options are those of a host, which its folder is named after.
func (f *fleet) options(o lb.PlaneOptions, next lb.DataPlane) Options {
	name := filepath.Base(o.StateDir)
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("host", name)
	}
	x := Options{PlaneOptions: o, Next: next, Cgroup: f.cgroup(name), Pins: filepath.Join(bpfFolder, "shoal-"+name)}
	if sockets.CanDestroy() == nil {
		x.Destroy = f.destroy
	}
	if f.udp {
		x.Reconnect = f.reconnect
	}
	return x
}

// before puts the plane in front of another.
func (f *fleet) before(p conformance.Plane) conformance.Plane {
	next, down := p.New, p.Down
	p.New = func(o lb.PlaneOptions) (lb.DataPlane, error) {
		n, err := next(o)
		if err != nil {
			return nil, err
		}
		return New(f.options(o, n))
	}
	p.Down = func(ctx context.Context, o lb.PlaneOptions) error {
		return errors.Join(Down(f.options(o, nil)), down(ctx, o))
	}
	if sockets.CanDestroy() != nil {
		p.Unclosed = "this kernel closes no sockets of others"
	}
	p.Join, p.Led = f.join, []string{"tcp"}
	if f.udp {
		p.Led = append(p.Led, "udp")
	}
	return p
}

// run runs the suite without UDP and with it.
func run(t *testing.T, p conformance.Plane) {
	for _, udp := range []bool{false, true} {
		t.Run(fmt.Sprintf("udp=%t", udp), func(t *testing.T) {
			conformance.Run(t, newFleet(t, udp).before(p))
		})
	}
}

// needsPlane leaves a test out on a kernel that cannot do a plane, if it is not the one that the kernel is there for.
func needsPlane(t *testing.T, name string, lacks error) {
	t.Helper()
	switch {
	case lacks == nil:
	case lab.Plane() == name:
		t.Fatal(lacks)
	default:
		t.Skip(lacks)
	}
}

func TestConformanceBeforeNftables(t *testing.T) {
	needsPlane(t, kernel.NFTables, nft.Available(t.Context()))
	run(t, conformance.Plane{
		New: func(o lb.PlaneOptions) (lb.DataPlane, error) { return nft.New(o) },
		Down: func(ctx context.Context, o lb.PlaneOptions) error {
			return errors.Join(host.DropRoute(), nft.Down(ctx, o), host.Down(o.StateDir))
		},
		Nftables: nft.AcceptMark,
	})
}

func TestConformanceBeforeIPVS(t *testing.T) {
	needsPlane(t, kernel.IPVS, ipvs.Available(t.Context()))
	with := func(o lb.PlaneOptions) ipvs.Options {
		return ipvs.Options{PlaneOptions: o, Netns: o.StateDir + "-netns"}
	}
	run(t, conformance.Plane{
		New: func(o lb.PlaneOptions) (lb.DataPlane, error) { return ipvs.New(with(o)) },
		Down: func(ctx context.Context, o lb.PlaneOptions) error {
			return errors.Join(host.DropRoute(), ipvs.Down(ctx, with(o)), host.Down(o.StateDir))
		},
	})
}
