//go:build e2e

package socket

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/lb"
	"shoal/model"
)

// some are frontends of every kind.
func some() []*lb.Frontend {
	kept := front("443/tcp", "rr", "one:80", "two:80")
	kept.Affinity = time.Minute
	return []*lb.Frontend{front("0/tcp", "rr", "one", "two", "three"), front("0/udp", "mh", "one", "two"), kept, front("9/tcp", "lc", "one")}
}

// writes is how often f writes to the kernel.
func writes(f func()) int {
	before := kernel.Total()
	f()
	return kernel.Total() - before
}

func TestARestartWritesNothing(t *testing.T) {
	f := newFixture(t)
	f.pass(true, some()...)
	s := f.hold(unix.SOCK_STREAM, vip+":80", "one")
	f.Plane.Close()
	if got := f.answers(3, vip+":80"); len(shares(got)) != 3 {
		t.Errorf("answers by %v without an agent", got)
	}
	if n := writes(f.start); n != 0 {
		t.Errorf("a new process made %d writes before its first pass", n)
	}
	for _, full := range []bool{true, false, true} {
		if n := writes(func() { f.pass(full, some()...) }); n != 0 {
			t.Errorf("a pass (full: %t) with nothing changed made %d writes", full, n)
		}
	}
	if got, want := s.peer(), netip.MustParseAddrPort(vip+":80"); got != want {
		t.Errorf("getpeername of an old connection says %s, want %s", got, want)
	}
}

// serveUntilKilled makes a plane on the cgroup, and serves.
func serveUntilKilled(t *testing.T, cgroup string) {
	t.Helper()
	p, err := New(Options{Cgroup: cgroup, Pins: os.Getenv("SOCKET_TEST_PINS"), Next: &behind{}})
	if err != nil {
		t.Fatal(err)
	}
	d := lb.Delta{Frontends: map[lb.Key]*lb.Frontend{}}
	for _, x := range some() {
		d.Frontends[x.Key] = x
	}
	r := p.Reconcile(context.Background(), d, true)
	fmt.Println("carried", len(r.Failures))
	for {
		p.Reconcile(context.Background(), lb.Delta{}, true)
	}
}

// TestAnAgentThatIsKilledLeavesAllAsItWas starts itself again, as what is killed.
func TestAnAgentThatIsKilledLeavesAllAsItWas(t *testing.T) {
	if cgroup := os.Getenv("SOCKET_TEST_CGROUP"); cgroup != "" {
		serveUntilKilled(t, cgroup)
	}
	f := newFixture(t)
	f.Plane.Close()
	if err := Down(f.opts); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "SOCKET_TEST_CGROUP="+f.opts.Cgroup, "SOCKET_TEST_PINS="+f.opts.Pins)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	f.must(cmd.Start)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "carried 0\n" {
		t.Errorf("the process says %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := f.answers(3, vip+":80"); len(shares(got)) != 3 {
		t.Errorf("answers by %v after the agent was killed", got)
	}
	f.opts.Reconnect = nil // as that process had it
	if n := writes(func() { f.start(); f.pass(true, some()...) }); n != 0 {
		t.Errorf("the next one made %d writes", n)
	}
}

// ids are those of links and programs, as pinned.
func (f *fixture) ids() (links []link.ID, programs []ebpf.ProgramID) {
	f.t.Helper()
	for i := range hooks {
		l, info, err := openLink(f.programs.pin(&hooks[i]))
		if err != nil || l == nil {
			f.t.Fatalf("link %s: %v", hooks[i].name, err)
		}
		links, programs = append(links, info.ID), append(programs, info.Program)
		l.Close()
	}
	return links, programs
}

// older has hooks with programs that differ from those of this version, until the
// test ends or the returned function is called.
func older(t *testing.T) (end func()) {
	current := hooks
	hooks = slices.Clone(hooks)
	for i := range hooks {
		write := hooks[i].write
		hooks[i].write = func(c *code, f family) {
			c.put(asm.Mov.Imm(asm.R0, 7))
			write(c, f)
		}
	}
	end = func() { hooks = current }
	t.Cleanup(end)
	return end
}

func TestAnUpgradeReplacesProgramsAtOnce(t *testing.T) {
	end := older(t)
	f := newFixture(t)
	f.pass(true, some()...)
	s := f.hold(unix.SOCK_STREAM, vip+":80", "one")
	oldLinks, oldPrograms := f.ids()
	quit, done := make(chan struct{}), make(chan error)
	load := newRoom(t)
	load.serve(80)
	go func() {
		for {
			select {
			case <-quit:
				done <- nil
				return
			default:
			}
			if _, err := load.ask(unix.SOCK_STREAM, vip+":80"); err != nil {
				done <- err
				return
			}
		}
	}()
	end()
	f.restart()
	f.pass(true, some()...)
	close(quit)
	if err := <-done; err != nil {
		t.Errorf("a connection during the upgrade: %v", err)
	}
	links, programs := f.ids()
	if !slices.Equal(links, oldLinks) {
		t.Errorf("links %v became %v", oldLinks, links)
	}
	for i, id := range programs {
		if id == oldPrograms[i] {
			t.Errorf("the program %s is the old one", hooks[i].name)
		}
	}
	if got, want := s.peer(), netip.MustParseAddrPort(vip+":80"); got != want {
		t.Errorf("getpeername of an old connection says %s, want %s", got, want)
	}
}

func TestAnotherLayoutOfMapsTakesOver(t *testing.T) {
	current := layout
	t.Cleanup(func() { layout = current })
	layout = "v0"
	f := newFixture(t)
	f.pass(true, some()...)
	layout = current
	f.restart()
	f.pass(true, some()...)
	if got := f.answers(3, vip+":80"); len(shares(got)) != 3 {
		t.Errorf("answers by %v", got)
	}
	folders, err := layouts(f.opts.Pins)
	if err != nil || !slices.Equal(folders, []string{mapsFolder(f.opts.Pins)}) {
		t.Errorf("folders of maps: %v, %v", folders, err)
	}
	if n := writes(func() { f.restart(); f.pass(true, some()...) }); n != 0 {
		t.Errorf("the next process made %d writes", n)
	}
}

// attachedTo counts our programs on a cgroup.
func attachedTo(t *testing.T, folder string) (n int) {
	t.Helper()
	cgroup, err := os.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer cgroup.Close()
	for _, h := range hooks {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: h.attach})
		if err != nil {
			t.Fatal(err)
		}
		n += len(found.Programs)
	}
	return n
}

func (f *fixture) nothingLeft(when string) {
	f.t.Helper()
	if n := attachedTo(f.t, f.opts.Cgroup); n != 0 {
		f.t.Errorf("%s: %d programs are attached", when, n)
	}
	if _, err := os.Stat(f.opts.Pins); !errors.Is(err, fs.ErrNotExist) {
		f.t.Errorf("%s: the folder of pins: %v, want it gone", when, err)
	}
}

func TestDownLeavesNothing(t *testing.T) {
	f := newFixture(t)
	f.pass(true, some()...)
	s := f.hold(unix.SOCK_STREAM, vip+":80", "one")
	if n := attachedTo(t, f.opts.Cgroup); n != len(hooks) {
		t.Fatalf("%d programs are attached, want %d: the test shows nothing", n, len(hooks))
	}
	for _, when := range []string{"once", "twice"} { // and with a plane that still has all open
		if err := Down(f.opts); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		f.nothingLeft(when)
	}
	f.notLed(unix.SOCK_STREAM, vip+":80")
	if err := s.echo(); err != nil {
		t.Errorf("an open connection: %v", err)
	}
}

func TestWithoutAProofNothingIsLeft(t *testing.T) {
	f := newFixture(t)
	f.Plane.Close()
	if err := Down(f.opts); err != nil {
		t.Fatal(err)
	}
	refused := func(when, want string, o Options) {
		t.Helper()
		var err error
		f.must(func() error { f.Plane, err = New(o); return nil })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", when, err, want)
		}
		f.nothingLeft(when)
	}

	o := f.opts
	elsewhere, err := os.MkdirTemp(filepath.Dir(o.Cgroup), "shoal-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeCgroup(t, elsewhere) })
	o.Cgroup = elsewhere
	refused("a process outside of the cgroup", "tried by a process of the cgroup", o)
	if n := attachedTo(t, elsewhere); n != 0 {
		t.Errorf("%d programs are left there", n)
	}

	o = f.opts
	o.Cgroup = t.TempDir()
	refused("a folder that is no cgroup", "no cgroup of version 2", o)

	o = f.opts
	o.Pins = t.TempDir() + "/pins"
	refused("pins on no BPF file system", "on no BPF file system", o)

	current := hooks
	t.Cleanup(func() { hooks = current })
	hooks = slices.Clone(hooks)
	last := &hooks[len(hooks)-1]
	last.write = func(c *code, _ family) { c.put(asm.Return()) } // R0 is not set
	refused("a program that the verifier refuses", "load the BPF program connect6", f.opts)
	if log := f.log.String(); !strings.Contains(log, "R0 !read_ok") || !strings.Contains(log, "connect6") {
		t.Errorf("the log has not what the verifier says: %s", log)
	}
}

func TestWhatOthersBreakIsRepaired(t *testing.T) {
	f := newFixture(t)
	f.pass(true, some()...)
	kept := front("443/tcp", "rr").Key
	for name, harm := range map[string]func() error{
		"an entry deleted": func() error { return f.maps.remove("services", keyOf(front("0/tcp", "rr").Key)) },
		"slots deleted":    func() error { return f.maps.remove("slots", slotKey{f.table.entries[kept].filling, 1}) },
		"another task": func() error {
			return f.maps.set("slots", slotKey{f.table.entries[kept].filling, 1}, slot{VIP: kept.VIP.As4(), To: target{Addr: [4]byte{127, 9, 9, 9}}})
		},
		"another service's": func() error {
			return f.maps.set("slots", slotKey{f.table.entries[kept].filling, 1}, slot{VIP: [4]byte{1, 2, 3, 4}})
		},
		"backends deleted": func() error {
			return f.maps.remove("backends", backendKey{Filling: f.table.entries[kept].filling, To: targetOf(some()[2].Backends[0].Addr)})
		},
		"an entry of others": func() error {
			return f.maps.set("services", serviceKey{VIP: [4]byte{10, 96, 9, 9}, Protocol: protoTCP}, service{Frontend: 77})
		},
		"slots of nobody":   func() error { return f.maps.set("slots", slotKey{Filling: 9999}, slot{}) },
		"programs detached": func() error { return detach(f.opts.Pins) },
		"maps unpinned":     func() error { return dropMaps(mapsFolder(f.opts.Pins)) },
		"all pins deleted":  func() error { return Down(f.opts) },
		"an equal number": func() error {
			return f.maps.set("services", serviceKey{VIP: [4]byte{10, 96, 9, 9}, Protocol: protoTCP}, service{Frontend: f.table.entries[kept].number})
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := harm(); err != nil {
				t.Fatal(err)
			}
			f.pass(true)
			f.pass(false, some()...)
			if n := writes(func() { f.pass(true, some()...) }); n != 0 {
				t.Errorf("a full pass after the repair made %d writes", n)
			}
			if n := writes(func() { f.restart(); f.pass(true, some()...) }); n != 0 {
				t.Errorf("a new process after the repair made %d writes", n)
			}
			v, err := f.Inspect(context.Background(), kept)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range append(v.Steps, v.Fronts[0].Steps...) {
				if !s.OK {
					t.Errorf("after the repair: %+v", s)
				}
			}
			if got := f.answers(3, vip+":80"); len(shares(got)) != 3 {
				t.Errorf("answers by %v", got)
			}
			n := map[string]int{}
			if err := errors.Join(list(f.maps, "services", func(serviceKey, service) { n["services"]++ }), list(f.maps, "slots", func(slotKey, slot) { n["slots"]++ }),
				list(f.maps, "backends", func(backendKey, uint32) { n["backends"]++ })); err != nil {
				t.Error(err)
			}
			if n["services"] != 4 || n["slots"] != 3+251+2 || n["backends"] != 2 {
				t.Errorf("entries: %v", n)
			}
		})
	}
}

// While a pass of the plane behind lasts, who is led may only go where it lets
// them, before and after.
func TestTheOrderOfAChange(t *testing.T) {
	f := newFixture(t)
	f.pass(true, front("0/tcp", "rr", "one", "two"))
	var during []string
	f.next.pass = func(lb.Delta) { during = f.answers(4, vip+":80") }
	for _, c := range []struct {
		name         string
		to           *lb.Frontend
		during, then string
	}{
		{"one leaves", front("0/tcp", "rr", "one"), "one", "one"},
		{"one comes", front("0/tcp", "rr", "one", "three"), "one", "one three"},
		{"one leaves, one comes", front("0/tcp", "rr", "two", "three"), "three", "three two"},
	} {
		f.pass(false, c.to)
		if got := set(during); got != c.during {
			t.Errorf("%s: during the pass of the plane behind answers by %s, want %s", c.name, got, c.during)
		}
		if got := set(f.answers(4, vip+":80")); got != c.then {
			t.Errorf("%s: then answers by %s, want %s", c.name, got, c.then)
		}
	}
	f.next.pass = func(lb.Delta) { f.notLed(unix.SOCK_STREAM, vip+":80") }
	f.pass(false)
	f.next.pass = nil

	f.next.more = true
	f.pass(false, front("0/tcp", "rr", "one"))
	f.notLed(unix.SOCK_STREAM, vip+":80")
	f.next.more = false
	if r := f.Reconcile(context.Background(), lb.Delta{}, false); len(r.Failures) > 0 {
		t.Errorf("failures: %+v", r.Failures)
	}
	if got := set(f.answers(2, vip+":80")); got != "one" {
		t.Errorf("once the plane behind is done: answers by %s", got)
	}
}

func set(answers []string) string {
	slices.Sort(answers)
	return strings.Join(slices.Compact(answers), " ")
}

func TestAFullMapLeavesTheRestToThePlaneBehind(t *testing.T) {
	usual := maxSlots
	maxSlots = 300
	t.Cleanup(func() { maxSlots = usual })
	f := newFixture(t)
	big := front("443/tcp", "mh", "one:80", "two:80") // 251 slots
	bigger := front("444/tcp", "mh", "one:80", "two:80")
	r := f.try(true, front("0/tcp", "rr", "one"), big, bigger)
	if len(r.Failures) != 1 || r.Failures[0].Object.Key != bigger.Key || !strings.Contains(r.Failures[0].Err.Error(), "slots is full") {
		t.Fatalf("failures: %+v, want one of %s", r.Failures, bigger.Key)
	}
	if r.Next <= 0 {
		t.Error("it is not tried again")
	}
	f.answers(1, vip+":443")
	f.answers(1, vip+":80")
	f.notLed(unix.SOCK_STREAM, vip+":444") // and not as every other port
	deadline := time.Now().Add(10 * time.Second)
	for r = f.try(false, front("0/tcp", "rr", "one"), bigger); len(r.Failures) > 0 && time.Now().Before(deadline); {
		r = f.Reconcile(context.Background(), lb.Delta{}, false)
	}
	if len(r.Failures) > 0 {
		t.Fatalf("failures after there is room: %+v", r.Failures)
	}
	f.answers(1, vip+":444")
}

func TestTasksOnAHostsOwnNetworkAreLeftToThePlaneBehind(t *testing.T) {
	f := newFixture(t)
	f.pass(true, front("0/tcp", "rr", "one"))
	f.answers(1, vip+":80")
	f.Reconcile(context.Background(), lb.Delta{Endpoints: map[netip.Addr]*lb.Endpoint{taskAddrs["one"]: {Local: true, Host: true}}}, false)
	f.notLed(unix.SOCK_STREAM, vip+":80")
	f.Reconcile(context.Background(), lb.Delta{Endpoints: map[netip.Addr]*lb.Endpoint{taskAddrs["one"]: {Local: true}}}, false)
	f.answers(1, vip+":80")
	f.Reconcile(context.Background(), lb.Delta{Base: &lb.Base{Self: model.Node{Addr: netip.MustParseAddr("192.0.2.1")}, Peers: []lb.Peer{{Addr: taskAddrs["one"]}}}}, false)
	f.notLed(unix.SOCK_STREAM, vip+":80")
}

func TestASocketThatThereIsNoRoomToRememberIsLeftToThePlaneBehind(t *testing.T) {
	usual := maxPeers
	maxPeers = 2
	t.Cleanup(func() { maxPeers = usual })
	f := newFixture(t)
	f.pass(true, front("0/tcp", "rr", "one"))
	first := f.hold(unix.SOCK_STREAM, vip+":80", "one")
	f.hold(unix.SOCK_STREAM, vip+":80", "one")
	f.notLed(unix.SOCK_STREAM, vip+":80")
	first.close()
	f.answers(1, vip+":80")
}

// TestWhatOthersBreakIsFoundInShares: where the maps have more than a pass looks at, the next one goes on; what is written meanwhile
// is not taken for broken.
func TestWhatOthersBreakIsFoundInShares(t *testing.T) {
	f := newFixture(t)
	usual := auditShare
	auditShare = 1 // a batch of one map
	t.Cleanup(func() { auditShare = usual })
	f.pass(true, some()...)
	kept := front("443/tcp", "rr").Key
	gone := slotKey{f.table.entries[kept].filling, 1}
	f.pass(true, some()...) // services
	if err := f.maps.remove("slots", gone); err != nil {
		t.Fatal(err)
	}
	passes := 0
	for ; f.table.entries[kept].filling == gone.Filling && passes < 10; passes++ {
		f.pass(true, some()...)
	}
	if passes < 2 || passes > 5 {
		t.Errorf("what was broken was written again after %d passes", passes)
	}
	for i := range 7 { // in all states of a round
		f.pass(false, front("443/tcp", "rr"))
		f.pass(false, some()...)
		if n := writes(func() { f.pass(true, some()...) }); n != 0 {
			t.Errorf("%d: a pass made %d writes", i, n)
		}
	}
}
