//go:build e2e

package socket

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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

	stats, err := f.Stats()
	if want := (lb.Stats{Connections: 8, BytesIn: 7}); err != nil || stats[k] != want {
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
