package conformance

import (
	"context"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/lb"
	"shoal/model"
)

var lifeTests = []test{
	{"NothingChangedNothingWritten", nothingChanged, true},
	{"ARestartWritesNothingAndFailsNoRequest", restart, true},
	{"ANewProcessTakesInWhatChangedMeanwhile", restartChanged, true},
	{"WhatOthersBreakIsRepaired", repairs, true},
	{"WhatOthersChangeIsTold", told, true},
	{"DownLeavesTheHostAsItWas", down, true},
	{"VIPsStayWhenThePlaneIsSwitched", switched, true},
}

// state prints all that a plane may touch, sorted, and without what counts by
// itself and what packets put there for a time. Whether rules are in the right
// order packets show.
const state = `nft -s list ruleset 2>/dev/null | tr ',{}' '\n' | sed 's/^[[:space:]]*//;s/[[:space:]]*$//;s/^elements = *//;/^$/d;/^[0-9].* timeout [^ ]* : /d' | sort
iptables-save | sed 's/\[[0-9:]*\]//;/^#/d' | sort
ipset save 2>/dev/null | sort | sed 's/ initval [^ ]*//'
ip rule; ip -4 route show table all | sort
ip -d -o link | sed 's/^[0-9]*: //;s/@if[0-9]*:/:/;s/\(hello\|tcn\|topology\|gc\)_timer *[0-9.]*//g' | grep -o '^[^ ]*\|nf_call_iptables [01]\|hairpin o[nf]*' | sort
[ -e /proc/net/ip_vs ] && { ipvsadm-save -n | sort; ipvsadm -l --timeout; }
sysctl -a 2>/dev/null | grep '^net\.\(ipv4\|bridge\|netfilter\)\.' | grep -v 'conntrack_count\|tcp_fastopen_key'
true`

func (w *world) state(h *host) string {
	w.t.Helper()
	return h.sh(w.t, "STATE="+h.opts.StateDir+"\n"+state+"\n"+w.plane.State)
}

// some is a state with a bit of everything.
func (w *world) some() {
	w.t.Helper()
	mapped := ports("80:80/tcp", "53:80/udp", "9:9000/sctp")
	mapped.Affinity = time.Minute
	w.service("mapped", "10.96.0.60", mapped, "a1", "x1", "b1")
	w.service("dead", "10.96.0.61", model.Spec{}, "a2")
	w.task("dead", "a2").State = model.Unhealthy
	w.service("local", "10.96.0.62", model.Spec{PreferLocal: true}, "a2", "b1")
	w.a.rest(w.names["a3"])
	w.service("wide", "", publish("8000:80/tcp", "8000:80/udp", "192.168.88.11:8001:80/tcp"), "a1", "a2", "b1")
	w.three()
}

func nothingChanged(t *testing.T, w *world) {
	w.some()
	w.nothingWritten(w.a, false, "at once")
	w.nothingWritten(w.a, true, "at once")
	w.a.must(t, func() error {
		n := w.writes(func() {
			for _, full := range []bool{false, true} {
				if r := w.a.dp.Reconcile(context.Background(), lb.Delta{}, full); len(r.Failures) > 0 {
					t.Errorf("failures of an empty Delta: %+v", r.Failures)
				}
			}
		})
		if n != 0 {
			t.Errorf("an empty Delta made %d writes", n)
		}
		changed, err := w.a.dp.Between(context.Background(), w.between(w.a))
		if changed {
			t.Error("Between changed something, though nothing is new")
		}
		return err
	})
	w.answers(6, "a4", "tcp", vip+":80", w.names["a4"].addr)
	w.answers(6, "a4", "tcp", "10.96.0.60:80", w.names["a4"].addr)
	w.nothingWritten(w.a, true, "after some connections")
}

// restart has a new process take over from one that was killed.
func (w *world) restart(h *host) {
	w.t.Helper()
	h.must(w.t, func() error { h.stop(); return nil })
	w.start(h)
}

// load makes requests until it is stopped, each on a connection of its own.
func (w *world) load(from, network, to string) (stop func() (n int, errs []error)) {
	quit := make(chan struct{})
	var n int
	var errs []error
	var done sync.WaitGroup
	done.Go(func() {
		for len(errs) < 3 {
			select {
			case <-quit:
				return
			default:
			}
			n++
			if _, err := w.names[from].ask(network, to); err != nil {
				errs = append(errs, err)
			}
		}
	})
	return func() (int, []error) {
		close(quit)
		done.Wait()
		return n, errs
	}
}

// undisturbed tells that f fails no request to the services of some.
func (w *world) undisturbed(f func()) {
	w.t.Helper()
	held := w.hold("a4", "tcp", vip+":80")
	stops := map[string]func() (int, []error){
		"TCP to a VIP":            w.load("a3", "tcp", vip+":80"),
		"UDP to a mapped port":    w.load("x2", "udp", "10.96.0.60:53"),
		"TCP to a published port": w.load("client", "tcp", "192.168.88.11:8000"),
	}
	f()
	for what, stop := range stops {
		if n, errs := stop(); len(errs) > 0 {
			w.t.Errorf("%s: %d of %d requests failed, the first with %v", what, len(errs), n, errs[0])
		}
	}
	if err := held.echo(); err != nil {
		w.t.Errorf("a connection that was held: %v", err)
	}
}

func restart(t *testing.T, w *world) {
	w.some()
	before := w.state(w.a)
	w.undisturbed(func() {
		if n := w.writes(func() { w.restart(w.a) }); n != 0 {
			t.Errorf("a new process made %d writes before its first pass", n)
		}
		w.nothingWritten(w.a, true, "a new process")
		w.nothingWritten(w.a, false, "its second pass")
	})
	if d := cmp.Diff(before, w.state(w.a)); d != "" {
		t.Errorf("the kernel before and after (-before +after):\n%s", d)
	}
}

func restartChanged(t *testing.T, w *world) {
	w.some()
	w.a.must(t, func() error { w.a.stop(); return nil })
	w.gone("web", "a1")
	w.service("new", "10.96.0.63", model.Spec{}, "a1")
	delete(w.services, "local")
	w.pass(w.a, true)
	w.evenly("a4", "tcp", vip+":80", w.names["a4"].addr, "a2", "x1")
	w.by("a4", "tcp", "10.96.0.63:80", "a1")
	w.refused("a4", "tcp", "10.96.0.62:80")
}

// anyBreaks is what others may do to any plane, or to the engine's rules.
var anyBreaks = []Break{
	Command("forwarding off", "sysctl -qw net.ipv4.ip_forward=0", false),
	Command("rules before ours", "iptables -I INPUT 1 ! -i lo -j DROP; iptables -I FORWARD 1 -j DROP; iptables -t raw -I PREROUTING 1 -d 10.244.1.2 ! -i mesh -j DROP", false),
	Command("bridges that do not show netfilter their packets", "ip link set mesh type bridge nf_call_iptables 0; ip link set other type bridge nf_call_iptables 0; sysctl -qw net.bridge.bridge-nf-call-iptables=0", false),
	Command("a firewall that starts again", flush, false),
}

func repairs(t *testing.T, w *world) {
	w.some()
	w.engineAgain() // other tests may have left its rules in another order
	before := w.state(w.a)
	for i, b := range append(anyBreaks, w.plane.Breaks...) {
		w.sub(b.Name, func(t *testing.T) {
			w.a.must(t, func() error { return b.Do(w.a.opts) })
			if w.state(w.a) == before {
				t.Fatal("no harm is done: the test shows nothing")
			}
			w.pass(w.a, true)
			if i < len(anyBreaks) {
				w.engineAgain()
			}
			if d := cmp.Diff(before, w.state(w.a)); d != "" {
				t.Errorf("the kernel before and after (-before +after):\n%s", d)
			}
			for _, from := range []string{"a4", "x2", "a"} {
				w.evenly(from, "tcp", vip+":80", w.seen(from, "tcp"), "a1", "a2", "x1")
				w.evenly(from, "udp", vip+":80", w.seen(from, "udp"), "a1", "a2", "x1")
				w.refused(from, "tcp", "10.96.9.9:80")
			}
			w.answers(3, "client", "tcp", "192.168.88.11:8000", netip.Addr{})
			w.nothingWritten(w.a, true, "after the repair")
		})
	}
}

// engineAgain has an engine start again, which makes its rules anew and puts
// them where it likes; and then a full pass.
func (w *world) engineAgain() {
	w.t.Helper()
	w.a.must(w.t, func() error {
		if _, err := shell(flush); err != nil {
			return err
		}
		return iptables(w.a.engineRules())
	})
	w.pass(w.a, true)
}

// A full pass repairs when it is due, which the kernel tells.
func told(t *testing.T, w *world) {
	w.some()
	changed := w.a.dp.Changed()
	if changed == nil {
		return
	}
	quiet := func(when string) {
		t.Helper()
		for range 20 { // what the plane does itself may be told late
			select {
			case <-changed:
			case <-time.After(silence):
				return
			}
		}
		t.Errorf("%s: the plane is told of changes again and again", when)
	}
	quiet("at first")
	w.pass(w.a, true)
	quiet("after a full pass")
	for _, b := range w.plane.Breaks {
		if !b.Told {
			continue
		}
		w.a.must(t, func() error { return b.Do(w.a.opts) })
		select {
		case <-changed:
		case <-time.After(waitLimit):
			t.Errorf("%s: it is not told", b.Name)
		}
		w.pass(w.a, true)
		quiet(b.Name)
	}
}

func down(t *testing.T, w *world) {
	w.a.must(t, func() error { return w.a.down(w.plane) })
	if err := w.a.do(func() error { _, err := shell("ipset create OTHERS hash:ip && ipset add OTHERS 192.0.2.4"); return err }); err == nil {
		t.Cleanup(func() { w.a.sh(t, "ipset destroy OTHERS") })
	}
	if _, err := os.Stat("/proc/net/ip_vs"); err == nil {
		w.a.sh(t, "ipvsadm -A -t 192.168.88.11:99 -s rr; ipvsadm -A -f 7 -s rr")
		t.Cleanup(func() { w.a.sh(t, "ipvsadm -D -t 192.168.88.11:99; ipvsadm -D -f 7") })
	}
	w.edit(w.a, "mangle -A PREROUTING -s 192.0.2.4 -j MARK --set-mark 7")
	before := w.state(w.a)
	w.some()
	w.restart(w.a)
	w.pass(w.a, true)
	if w.state(w.a) == before {
		t.Fatal("nothing is made")
	}
	w.a.must(t, func() error { return w.a.down(w.plane) })
	check := func() {
		t.Helper()
		if d := cmp.Diff(before, w.state(w.a)); d != "" {
			t.Errorf("the kernel before and after Down (-before +after):\n%s", d)
		}
		files, err := os.ReadDir(w.a.opts.StateDir)
		if err != nil && !os.IsNotExist(err) || len(files) > 0 {
			t.Errorf("left in the folder of former values: %v, %v", files, err)
		}
	}
	check()
	w.a.must(t, func() error { return w.plane.Down(context.Background(), w.a.opts) }) // with nothing there
	check()
	w.some()
	w.evenly("a4", "tcp", vip+":80", w.names["a4"].addr, "a1", "a2", "x1")
}

func switched(t *testing.T, w *world) { w.switchTo(t, w.plane) }

// switchTo goes from the world's plane to another, or to a new one of its kind,
// and back: VIPs and names stay, nothing else.
func (w *world) switchTo(t *testing.T, other *Plane) {
	w.some()
	own := w.plane
	for _, p := range []*Plane{other, own} {
		w.a.must(t, func() error { return w.a.down(w.plane) })
		w.plane = p
		w.pass(w.a, true)
		w.evenly("a4", "tcp", vip+":80", w.names["a4"].addr, "a1", "a2", "x1")
		w.by("a4", "udp", "10.96.0.60:53", "a1", "x1", "b1")
		w.answers(3, "client", "tcp", "192.168.88.11:8000", clientAddr)
	}
}

// Switch goes from one plane to another on one host, and back, while the other
// hosts keep the first: for a kernel that has what both need.
func Switch(t *testing.T, from, to Plane) {
	w := newWorld(t, &from)
	t.Cleanup(w.end)
	w.begin(t, true)
	w.switchTo(t, &to)
}
