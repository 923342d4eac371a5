//go:build e2e

package socket

import (
	"context"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/lab/wait"
	"shoal/lb"
	"shoal/model"
)

func TestWhatIsLedIsSeenAndCounted(t *testing.T) {
	f := newFixture(t)
	k := front("0/tcp", "rr").Key
	f.next.stats = map[lb.Key]lb.Stats{k: {Connections: 5, BytesIn: 7}}
	f.pass(true, front("0/tcp", "rr", "one", "two"), front("443/tcp", "lc", "one"))
	s := f.hold(unix.SOCK_STREAM, vip+":80", "one")
	f.answers(2, vip+":80")

	stats := map[lb.Key]lb.Stats{}
	err := f.Stats(func(k lb.Key, s lb.Stats) { stats[k] = stats[k].Add(s) })
	if want := (lb.Stats{Connections: 8, Led: 3, BytesIn: 7}); err != nil || stats[k] != want {
		t.Errorf("counted: %+v, %v; want %+v", stats[k], err, want)
	}
	held := func() lb.Held {
		h, err := f.Held(taskAddrs["one"])
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if h := held(); h != (lb.Held{Connections: 2, Open: true}) { // one is of the plane behind
		t.Errorf("held: %+v", h)
	}

	v, err := f.Inspect(context.Background(), k)
	if err != nil {
		t.Fatal(err)
	}
	step := v.Steps[0]
	if step.What != "socket" || !step.OK || strings.Count(step.Evidence, "program ") != len(hooks) || !strings.Contains(step.Evidence, f.opts.Cgroup) {
		t.Errorf("step of programs: %+v", step)
	}
	entry := v.Fronts[0].Steps[0]
	if want := "services 10.96.0.50 tcp: 2 slots, in turn; 3 connections so far"; entry.What != "socket" || !entry.OK || entry.Evidence != want {
		t.Errorf("step of the frontend: %+v, want %q", entry, want)
	}
	if bs := v.Fronts[0].Backends; len(bs) != 1 || bs[0].Addr != netip.AddrPortFrom(taskAddrs["one"], 0) || bs[0].Active != 1 {
		t.Errorf("backends: %+v", bs)
	}
	s.close()
	if h := held(); h.Connections != 1 {
		t.Errorf("held after the connection: %+v", h)
	}

	v, err = f.Inspect(context.Background(), front("443/tcp", "lc").Key)
	if entry := v.Fronts[0].Steps[0]; err != nil || !entry.OK || !strings.Contains(entry.Evidence, "the scheduler lc is the data plane's") {
		t.Errorf("step of a frontend that is not led: %+v, %v", entry, err)
	}
	if v, err = f.Inspect(context.Background(), lb.Key{Protocol: model.TCP, Port: 80}); err != nil || len(v.Steps) != 0 {
		t.Errorf("view of a published port: %+v, %v", v, err)
	}
}

func TestWhatIsMissingIsSeen(t *testing.T) {
	f := newFixture(t)
	x := front("0/tcp", "rr", "one", "two")
	f.pass(true, x)
	look := func() (programs, entry lb.Step) {
		v, err := f.Inspect(context.Background(), x.Key)
		if err != nil {
			t.Fatal(err)
		}
		return v.Steps[0], v.Fronts[0].Steps[0]
	}
	if err := f.maps.remove("slots", slotKey{f.table.entries[x.Key].filling, 1}); err != nil {
		t.Fatal(err)
	}
	if _, entry := look(); entry.OK || !strings.Contains(entry.Evidence, "1 of the slots are there") {
		t.Errorf("a slot is missing: %+v", entry)
	}
	if err := f.maps.remove("services", keyOf(x.Key)); err != nil {
		t.Fatal(err)
	}
	if _, entry := look(); entry.OK || !strings.Contains(entry.Evidence, "no entry") {
		t.Errorf("the entry is missing: %+v", entry)
	}
	if err := detach(f.opts.Pins); err != nil {
		t.Fatal(err)
	}
	if programs, _ := look(); programs.OK || strings.Count(programs.Evidence, "nothing is pinned") != len(hooks) {
		t.Errorf("programs are missing: %+v", programs)
	}
}

// TestTheSizesOfMapsAreThoseOfTheKernel lists every map, and compares.
func TestTheSizesOfMapsAreThoseOfTheKernel(t *testing.T) {
	f := newFixture(t)
	keeping := front("8080/tcp", "rr", "one", "two", "three")
	keeping.Affinity = time.Minute
	f.pass(true, front("0/tcp", "rr", "one", "two"), keeping)
	sizes := func() map[string]int {
		t.Helper()
		all, err := f.Sizes()
		if err != nil {
			t.Fatal(err)
		}
		entries := map[string]int{}
		for _, s := range all {
			entries[s.Map] = s.Entries
			if want := specs()[s.Map].MaxEntries; s.Limit != int(want) {
				t.Errorf("the limit of %s is %d, want %d", s.Map, s.Limit, want)
			}
		}
		return entries
	}
	listed := func() map[string]int {
		t.Helper()
		n := map[string]int{}
		for name, err := range map[string]error{
			"services": list(f.maps, "services", func(serviceKey, service) { n["services"]++ }),
			"slots":    list(f.maps, "slots", func(slotKey, slot) { n["slots"]++ }),
			"backends": list(f.maps, "backends", func(backendKey, uint32) { n["backends"]++ }),
			"affinity": list(f.maps, "affinity", func(clientKey, kept) { n["affinity"]++ }),
			"peers":    list(f.maps, "peers", func(uint64, peer) { n["peers"]++ }),
		} {
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			n[name] += 0
		}
		return n
	}
	want := func(what string, want map[string]int) {
		t.Helper()
		var got map[string]int
		defer func() {
			if t.Failed() {
				t.Logf("%s: %v, want %v", what, got, want)
			}
		}()
		// What the programs write is counted once in a while.
		wait.For(t, 5*time.Second, what, func() bool { got = sizes(); return maps.Equal(got, want) })
		if l := listed(); !maps.Equal(l, want) {
			t.Errorf("%s: the kernel has %v", what, l)
		}
	}
	want("nobody has connected", map[string]int{"services": 2, "slots": 5, "backends": 3, "affinity": 0, "peers": 0})
	one, two := f.hold(unix.SOCK_STREAM, vip+":80", "one"), f.hold(unix.SOCK_STREAM, vip+":8080", "one")
	want("two have", map[string]int{"services": 2, "slots": 5, "backends": 3, "affinity": 1, "peers": 2})
	one.close()
	two.close()
	want("both have ended", map[string]int{"services": 2, "slots": 5, "backends": 3, "affinity": 1, "peers": 0})
	f.pass(false, front("0/tcp", "rr", "three"), keeping)
	want("there are fewer tasks", map[string]int{"services": 2, "slots": 4, "backends": 3, "affinity": 1, "peers": 0})
}
