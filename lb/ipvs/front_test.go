package ipvs

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal/catalog"
	"shoal/model"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func testTask(addr string, change ...func(*model.Task)) model.Task {
	t := model.Task{Addr: netip.MustParseAddr(addr), State: model.Running, Weight: 1, Container: addr,
		Since: noon, Drain: 10 * time.Second, Spec: model.Spec{Mode: model.ModeVIP}}
	for _, c := range change {
		c(&t)
	}
	return t
}

func state(s model.State) func(*model.Task) { return func(t *model.Task) { t.State = s } }
func node(name string) func(*model.Task)    { return func(t *model.Task) { t.Node = name } }
func weight(n int) func(*model.Task)        { return func(t *model.Task) { t.Weight = n } }
func ports(ps ...model.Port) func(*model.Task) {
	return func(t *model.Task) { t.Spec.Ports = ps }
}

// text shows fronts in a line each.
func text(vs []balanced) string {
	var b strings.Builder
	for _, v := range vs {
		fmt.Fprintf(&b, "%s %s", v.front, v.Scheduler)
		if v.Affinity > 0 {
			fmt.Fprintf(&b, " affinity %d", v.Affinity)
		}
		for _, d := range v.Dests {
			fmt.Fprintf(&b, " | %s %d", d.Addr, d.Weight)
			if !d.Until.IsZero() {
				fmt.Fprintf(&b, " +%s", d.Until.Sub(noon))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestFronts(t *testing.T) {
	http := model.Port{Port: 80, Target: 8080, Protocol: model.TCP}
	dns := model.Port{Port: 53, Target: 5353, Protocol: model.UDP}
	for name, tc := range map[string]struct {
		spec  model.Spec
		tasks []model.Task
		want  string
	}{
		"no tasks": {},
		"of another host, which alone reaches it": {
			tasks: []model.Task{testTask("172.18.0.2", node("b"), state(model.Unreached)), testTask("172.18.0.2", node("a"))},
			want:  "10.96.0.1 tcp rr | 172.18.0.2:0 1\n10.96.0.1 udp rr | 172.18.0.2:0 1\n",
		},
		"all ports": {
			tasks: []model.Task{testTask("172.18.0.3", weight(5)), testTask("172.18.0.2")},
			want: "10.96.0.1 tcp rr | 172.18.0.2:0 1 | 172.18.0.3:0 5\n" +
				"10.96.0.1 udp rr | 172.18.0.2:0 1 | 172.18.0.3:0 5\n",
		},
		"named ports": {
			tasks: []model.Task{testTask("172.18.0.2", ports(http, dns))},
			want: "10.96.0.1:80/tcp rr | 172.18.0.2:8080 1\n" +
				"10.96.0.1:53/udp rr | 172.18.0.2:5353 1\n",
		},
		"affinity, on the same port and on another": {
			spec:  model.Spec{Affinity: time.Minute},
			tasks: []model.Task{testTask("172.18.0.2", ports(http, model.Port{Port: 90, Target: 90, Protocol: model.TCP}))},
			want: "10.96.0.1:80/tcp mh | 172.18.0.2:8080 1\n" +
				"10.96.0.1:90/tcp rr affinity 60 | 172.18.0.2:90 1\n",
		},
		"a task with all ports joins every named one": {
			tasks: []model.Task{testTask("172.18.0.2", ports(http)), testTask("172.18.0.3")},
			want: "10.96.0.1 tcp rr | 172.18.0.3:0 1\n" +
				"10.96.0.1:80/tcp rr | 172.18.0.2:8080 1 | 172.18.0.3:80 1\n" +
				"10.96.0.1 udp rr | 172.18.0.3:0 1\n",
		},
		"out of rotation: TCP keeps what it holds, UDP leaves": {
			tasks: []model.Task{testTask("172.18.0.2", state(model.Unhealthy)), testTask("172.18.0.3", state(model.Paused)),
				testTask("172.18.0.4", state(model.Starting)), testTask("172.18.0.5", state(model.Draining)), testTask("172.18.0.6"), testTask("172.18.0.7", state(model.Lost))},
			want: "10.96.0.1 tcp rr | 172.18.0.2:0 0 | 172.18.0.3:0 0 | 172.18.0.4:0 0 | 172.18.0.5:0 0 +10s | 172.18.0.6:0 1 | 172.18.0.7:0 0\n" +
				"10.96.0.1 udp rr | 172.18.0.6:0 1\n",
		},
		"tasks of dead hosts": {
			tasks: []model.Task{testTask("172.18.0.2", state(model.Lost), node("b")), testTask("172.18.0.3", node("a"))},
			want:  "10.96.0.1 tcp rr | 172.18.0.2:0 0 | 172.18.0.3:0 1\n10.96.0.1 udp rr | 172.18.0.3:0 1\n",
		},
		"and back": {
			tasks: []model.Task{testTask("172.18.0.2", node("b")), testTask("172.18.0.3", node("a"))},
			want:  "10.96.0.1 tcp rr | 172.18.0.2:0 1 | 172.18.0.3:0 1\n10.96.0.1 udp rr | 172.18.0.2:0 1 | 172.18.0.3:0 1\n",
		},
		"local preferred: others only keep what they hold": {
			spec:  model.Spec{PreferLocal: true},
			tasks: []model.Task{testTask("172.18.0.2", node("b")), testTask("172.18.0.3", node("a")), testTask("172.18.0.4", node("a"), weight(2))},
			want: "10.96.0.1 tcp rr | 172.18.0.2:0 0 | 172.18.0.3:0 1 | 172.18.0.4:0 2\n" +
				"10.96.0.1 udp rr | 172.18.0.3:0 1 | 172.18.0.4:0 2\n",
		},
		"local preferred, and none is": {
			spec:  model.Spec{PreferLocal: true},
			tasks: []model.Task{testTask("172.18.0.2", node("b")), testTask("172.18.0.3", node("c"))},
			want: "10.96.0.1 tcp rr | 172.18.0.2:0 1 | 172.18.0.3:0 1\n" +
				"10.96.0.1 udp rr | 172.18.0.2:0 1 | 172.18.0.3:0 1\n",
		},
		"local preferred, and none in rotation": {
			spec:  model.Spec{PreferLocal: true},
			tasks: []model.Task{testTask("172.18.0.2", node("b")), testTask("172.18.0.3", node("a"), state(model.Unhealthy)), testTask("172.18.0.4", node("a"), weight(0))},
			want: "10.96.0.1 tcp rr | 172.18.0.2:0 1 | 172.18.0.3:0 0 | 172.18.0.4:0 0\n" +
				"10.96.0.1 udp rr | 172.18.0.2:0 1\n",
		},
		"local preferred, port by port": {
			spec:  model.Spec{PreferLocal: true},
			tasks: []model.Task{testTask("172.18.0.2", node("b"), ports(http, dns)), testTask("172.18.0.3", node("a"), ports(http))},
			want: "10.96.0.1:80/tcp rr | 172.18.0.2:8080 0 | 172.18.0.3:8080 1\n" +
				"10.96.0.1:53/udp rr | 172.18.0.2:5353 1\n",
		},
		"local not preferred": {
			tasks: []model.Task{testTask("172.18.0.2", node("b"), ports(http)), testTask("172.18.0.3", node("a"), ports(http))},
			want:  "10.96.0.1:80/tcp rr | 172.18.0.2:8080 1 | 172.18.0.3:8080 1\n",
		},
		"weight 0 is out of rotation": {
			tasks: []model.Task{testTask("172.18.0.2", weight(0))},
			want:  "10.96.0.1 tcp rr | 172.18.0.2:0 0\n",
		},
		"dh has nowhere else to go": {
			spec:  model.Spec{Scheduler: "dh"},
			tasks: []model.Task{testTask("172.18.0.2", state(model.Draining)), testTask("172.18.0.3")},
			want:  "10.96.0.1 tcp dh | 172.18.0.3:0 1\n10.96.0.1 udp dh | 172.18.0.3:0 1\n",
		},
		"affinity is whole seconds, rounded up": {
			spec:  model.Spec{Scheduler: "wlc", Affinity: 1500 * time.Millisecond},
			tasks: []model.Task{testTask("172.18.0.2", ports(model.Port{Port: 80, Target: 80, Protocol: model.TCP}))},
			want:  "10.96.0.1:80/tcp wlc affinity 2 | 172.18.0.2:80 1\n",
		},
		"two containers with one address": {
			tasks: []model.Task{testTask("172.18.0.2", state(model.Draining)), testTask("172.18.0.2", weight(2)), testTask("172.18.0.2", state(model.Unhealthy))},
			want:  "10.96.0.1 tcp rr | 172.18.0.2:0 2\n10.96.0.1 udp rr | 172.18.0.2:0 2\n",
		},
		"names without VIPs": {
			spec:  model.Spec{Mode: model.ModeDNSRR},
			tasks: []model.Task{testTask("172.18.0.2")},
		},
		"IPv6 is not balanced": {
			tasks: []model.Task{testTask("fd00::2"), testTask("172.18.0.2", ports(http))},
			want:  "10.96.0.1:80/tcp rr | 172.18.0.2:8080 1\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := model.Service{VIP: netip.MustParseAddr("10.96.0.1"), Spec: tc.spec, Tasks: tc.tasks}
			if s.Spec.Mode == "" {
				s.Spec.Mode = model.ModeVIP
			}
			if d := cmp.Diff(tc.want, text(fronts(&s, "a"))); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestMarks(t *testing.T) {
	f := func(n byte) front { return front{netip.AddrFrom4([4]byte{10, 96, 0, n}), model.TCP, 0} }
	m := newMarks()
	m.adopt(f(1), marksOf|7|parked)
	m.adopt(f(2), marksOf|7) // taken
	m.adopt(f(3), 0x105)     // not ours
	if m.reserve(marksOf|8) || !m.reserve(marksOf|7) {
		t.Error("reserve does not tell known fronts")
	}
	for i, want := range []uint32{marksOf | 7, marksOf | 9, marksOf | 10} {
		if got, ok := m.get(f(byte(i + 1))); got != want || !ok {
			t.Errorf("front %d: mark %#x, want %#x", i+1, got, want)
		}
	}
	m.free(f(2))
	if got, _ := m.get(f(4)); got != marksOf|11 {
		t.Errorf("a freed mark is another's at once: %#x", got)
	}
	m.last = maxMarks
	if got, _ := m.get(f(5)); got != marksOf|1 {
		t.Errorf("after the last: %#x", got)
	}
}

func TestChangedServices(t *testing.T) {
	snap := func(tasks ...model.Task) *model.Snapshot {
		var cs []model.Container
		vips := map[model.ServiceID]netip.Addr{}
		for _, task := range tasks {
			vips[task.Service] = netip.MustParseAddr("10.96.0.1")
			cs = append(cs, model.Container{ID: task.Service.Name + task.Container, Node: "a", Tasks: []model.Task{task}})
		}
		return catalog.NewSnapshot(1, model.Node{Name: "a"}, nil, cs, vips)
	}
	in := func(name string, change ...func(*model.Task)) model.Task {
		t := testTask("172.18.0.2", change...)
		t.Service = model.ServiceID{Stack: "default", Name: name}
		return t
	}
	old := snap(in("a"), in("b"), in("c"), in("d", state(model.Draining)), in("e"), in("f"), in("g"), in("h", state(model.Lost)), in("z"))
	new := snap(in("a"), in("aa"), in("b", state(model.Unhealthy)), in("c", weight(2)),
		in("d", state(model.Draining), func(t *model.Task) { t.Drain = time.Minute }),
		in("e", ports(model.Port{Port: 1, Target: 1, Protocol: model.TCP})),
		in("f", func(t *model.Task) { t.Spec.PreferLocal = true }), in("g", state(model.Lost)), in("h"))
	var got []string
	changed(old, new, func(o, n *model.Service) {
		switch {
		case o == nil:
			got = append(got, "+"+n.ID.Name)
		case n == nil:
			got = append(got, "-"+o.ID.Name)
		default:
			got = append(got, n.ID.Name)
		}
	})
	if d := cmp.Diff([]string{"+aa", "b", "c", "d", "e", "f", "g", "h", "-z"}, got); d != "" {
		t.Error(d)
	}
}
