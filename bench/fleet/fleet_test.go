package fleet

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestQuantilesAreNearestRanks(t *testing.T) {
	hundred := times{}
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i)*time.Millisecond)
	}
	for _, tt := range []struct {
		name string
		of   times
		q    float64
		want time.Duration
	}{
		{"of none", nil, 0.5, 0},
		{"of one", times{time.Second}, 0.99, time.Second},
		{"the median of an odd number", times{3, 1, 2}, 0.5, 2},
		{"the median of an even number", times{4, 1, 3, 2}, 0.5, 2},
		{"p99 of a hundred", hundred, 0.99, 99 * time.Millisecond},
		{"the most", hundred, 1, 100 * time.Millisecond},
		{"the least", hundred, 0, time.Millisecond},
	} {
		if got := tt.of.quantile(tt.q); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if hundred[0] != 100*time.Millisecond {
		t.Error("the times were put in order where they are")
	}
}

func TestFiguresAreForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ms", 1400 * time.Microsecond: "1 ms", 999 * time.Millisecond: "999 ms", 1234 * time.Millisecond: "1.23 s", 75 * time.Second: "75.0 s",
	} {
		if got := short(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
	for n, want := range map[float64]string{0: "0 B", 12: "12 B", 1234: "1.23 kB", 5.5e6: "5.5 MB", 2e9: "2 GB"} {
		if got := amount(n, "B"); got != want {
			t.Errorf("%g: %q, want %q", n, got, want)
		}
	}
	if got := (times{time.Second}).String(); got != "p50 1.00 s, p99 1.00 s, most 1.00 s" {
		t.Error(got)
	}
}

func TestPlans(t *testing.T) {
	sound := Options{Hosts: 1000, Tasks: 2, Servers: 1, Seconds: 30, Churn: 50, Deaths: 5}
	for _, tt := range []struct {
		name   string
		change func(*Options)
		want   string // parts: phases, or a part of the error
	}{
		{"all", func(*Options) {}, "catalog liveness: cold rest churn server partition death"},
		{"the catalogs", func(o *Options) { o.Part = "catalog" }, "catalog: cold rest churn server partition"},
		{"liveness", func(o *Options) { o.Part = "liveness" }, "liveness: cold rest partition death"},
		{"cold comes first, and is always there", func(o *Options) { o.Phases = "churn" }, "catalog liveness: cold churn"},
		{"the order is its own", func(o *Options) { o.Phases = "death,rest,cold" }, "catalog liveness: cold rest death"},
		{"a phase that the part does not have", func(o *Options) { o.Phases, o.Part = "churn,rest", "liveness" }, "liveness: cold rest"},
		{"no such phase", func(o *Options) { o.Phases = "chrun" }, "-phase chrun"},
		{"no such part", func(o *Options) { o.Part = "dns" }, "-part dns"},
		{"one host", func(o *Options) { o.Hosts = 1 }, "-hosts 1"},
		{"no task", func(o *Options) { o.Tasks = 0 }, "-tasks 0"},
		{"more tasks than addresses", func(o *Options) { o.Tasks = 101 }, "-tasks 101"},
		{"two servers", func(o *Options) { o.Servers = 2 }, "-servers 2"},
		{"no time", func(o *Options) { o.Seconds = 0 }, "-seconds 0"},
		{"all are cut off", func(o *Options) { o.Cut = 1000 }, "-cut 1000"},
		{"all die", func(o *Options) { o.Deaths = 1000 }, "-deaths 1000"},
	} {
		o := sound
		tt.change(&o)
		p, err := o.check()
		got := strings.Join(p.parts, " ") + ": " + strings.Join(p.phases, " ")
		if err != nil {
			got = err.Error()
		}
		if got != tt.want && (err == nil || !strings.Contains(got, tt.want)) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestWhatIsLeftOpenIsFilledIn(t *testing.T) {
	for _, tt := range []struct{ hosts, workers, cut int }{{1000, 4, 300}, {50, 2, 15}, {251, 2, 75}, {501, 3, 150}, {2, 2, 1}} {
		o := Options{Hosts: tt.hosts, Tasks: 1, Servers: 1, Seconds: 1, Churn: 1}
		if _, err := o.check(); err != nil {
			t.Error(err)
		}
		if o.Workers != tt.workers || o.Cut != tt.cut || o.Askers != tt.hosts {
			t.Errorf("%d hosts: %d workers, %d cut off, %d ask all", tt.hosts, o.Workers, o.Cut, o.Askers)
		}
	}
}

func TestHostsAreSharedAndPicked(t *testing.T) {
	var all []int
	for w := range 3 {
		all = append(all, share(10, 3, w)...)
	}
	slices.Sort(all)
	if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}; !slices.Equal(all, want) {
		t.Errorf("the workers have %v", all)
	}
	for _, tt := range []struct{ hosts, n, want int }{{1000, 50, 50}, {1000, 300, 300}, {7, 3, 3}, {5, 50, 5}, {5, 0, 0}} {
		if got := len(spread(tt.hosts, tt.n)); got != tt.want {
			t.Errorf("%d of %d: %d", tt.n, tt.hosts, got)
		}
	}
}

func TestNoTwoHostsHaveAnAddress(t *testing.T) {
	seen := map[netip.Addr]bool{}
	for s := range 3 {
		seen[serverAddr(s)] = true
	}
	for h := range maxHosts {
		for _, a := range append(aliases(3, h), hostAddr(h)) {
			if seen[a] || !a.IsLoopback() {
				t.Fatalf("%s of host %d is another's, or not on the loopback device", a, h)
			}
			seen[a] = true
		}
	}
}

func TestRequestsAreAnswered(t *testing.T) {
	type args struct{ A, B int }
	actions := map[string]action{
		"add":  does(func(a args) (any, error) { return a.A + a.B, nil }),
		"fail": does(func(args) (any, error) { return nil, errors.New("no") }),
	}
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{`{"do":"add","args":{"A":1,"B":2}}` + "\n", `{"value":3}` + "\n"},
		{`{"do":"add"}` + "\n" + `{"do":"fail"}` + "\n", `{"value":0}` + "\n" + `{"error":"no"}` + "\n"},
		{`{"do":"sing"}` + "\n", `{"error":"there is no \"sing\""}` + "\n"},
	} {
		var out bytes.Buffer
		if err := serve(strings.NewReader(tt.in), &out, actions); err != nil || out.String() != tt.want {
			t.Errorf("%q: %q, %v; want %q", tt.in, out.String(), err, tt.want)
		}
	}
	for _, in := range []string{"{}", "nonsense\n"} {
		if err := serve(strings.NewReader(in), io.Discard, actions); err == nil {
			t.Errorf("%q is taken", in)
		}
	}
}

func TestWhatIsSaidIsUnderstood(t *testing.T) {
	for _, v := range []any{
		&settled{times{time.Second, 2}, 3},
		&awaitArgs{tally{2, 1<<64 - 1}, time.Unix(1, 5).UTC(), time.Minute},
		&verdictArgs{[]int{1, 2}, true, false, time.Unix(7, 0).UTC()},
		&serverStatus{1, 2, 3},
		&settled{Took: make(times, 100_000)},
	} {
		var line bytes.Buffer
		if err := writeLine(&line, v); err != nil {
			t.Fatal(err)
		}
		got := reflect.New(reflect.TypeOf(v).Elem()).Interface()
		if err := readLine(bufio.NewReader(&line), got); err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("%T: %v, %v", v, got, err)
		}
	}
}

func TestTalliesTellSetsApart(t *testing.T) {
	of := func(ids ...string) (t tally) {
		for _, id := range ids {
			t.add(id)
		}
		return t
	}
	sum := of("a")
	sum.join(of("b", "c"))
	if sum != of("c", "b", "a") {
		t.Error("the order, or the host, makes a difference")
	}
	if of("a", "b") == of("a", "c") || of("a") == of("a", "a") {
		t.Error("different sets have one tally")
	}
}

func TestCountersAreRead(t *testing.T) {
	const list = `{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"counter": {"family": "ip", "name": "to-store", "table": "fleet", "packets": 3, "bytes": 180}}]}`
	got, err := parseCounters([]byte(list))
	if err != nil || got[countStore].Bytes != 180 || got[countStore].Packets != 3 || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseCounters([]byte("no")); err == nil {
		t.Error("nonsense is read")
	}
}

func TestProcessesAreRead(t *testing.T) {
	p, err := parseStat([]byte("7 (a) b (c)) S 3 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 100 1000000 2 18446744073709551615"))
	if err != nil || p.parent != 3 || p.cpu != 2*time.Second || p.memory <= 0 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, line := range []string{"", "7 (a) S 3", "7 (a) S x 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 100 1000000 2 1"} {
		if _, err := parseStat([]byte(line)); err == nil {
			t.Errorf("%q is read", line)
		}
	}
}

func TestWhatAPhaseUsed(t *testing.T) {
	before := usage{over: time.Second, cpu: map[string]time.Duration{partStore: time.Second, partCatalog: 5 * time.Second},
		sent: traffic{countStore: {10, 100}}, store: serverStatus{5, 50, 7}}
	after := usage{over: 11 * time.Second, cpu: map[string]time.Duration{partStore: 3 * time.Second, partCatalog: 13 * time.Second},
		sent: traffic{countStore: {30, 400}}, store: serverStatus{8, 60, 9}}
	u := after.sub(before)
	want := usage{over: 10 * time.Second, cpu: map[string]time.Duration{partStore: 2 * time.Second, partCatalog: 8 * time.Second},
		sent: traffic{countStore: {20, 300}}, store: serverStatus{3, 10, 9}}
	if !reflect.DeepEqual(u, want) {
		t.Errorf("%+v", u)
	}
	if u.busy(2) != 0.5 || u.first() != partCatalog {
		t.Errorf("busy %g, most by %s", u.busy(2), u.first())
	}
	table := markdown(cost("rest", u, 4, 2))
	for _, line := range []string{
		"| rest | took | 10.0 s; 50% of 2 processors were used |", "| rest | processor, store | 2.0 s: 20.0% of one; memory 0 B |",
		"| rest | sent, hosts and store | 300 B, 30 B/s in 20 packets: 7.5 B/s for a host |", "10 proposals, 1.0/s; 3 revisions; its database 9 B",
	} {
		if !strings.Contains(table, line) {
			t.Errorf("there is no %q in\n%s", line, table)
		}
	}
}

func TestWhatBreaksFirst(t *testing.T) {
	late := times{4 * time.Second}
	for _, tt := range []struct {
		name string
		all  []outcome
		want string
	}{
		{"nothing was done", nil, "Nothing breaks"},
		{"all is well", []outcome{{phase: phaseCold, busy: 0.5, found: times{time.Second}}}, "Nothing breaks"},
		{"the first of several", []outcome{{phase: phaseRest}, {phase: phaseChurn, open: 2}, {phase: phaseDeath, wrong: 1}}, "phase churn, 2 did not"},
		{"processors", []outcome{{phase: phaseCold, busy: 0.95, most: partStore}}, "phase cold, this machine's processors are used up, first of all by the part store"},
		{"wrong verdicts", []outcome{{phase: phaseRest, wrong: 7}}, "phase rest, 7 verdicts of death on hosts that live"},
		{"late verdicts", []outcome{{phase: phaseDeath, found: late}}, "a death is found after 4.00 s at p99"},
		{"two at once", []outcome{{phase: phaseDeath, wrong: 1, found: late}}, "live; a death"},
	} {
		if got := breaks(tt.all); !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
}

func TestSetsHoldHostsWithTheirAliases(t *testing.T) {
	if got := setMembers("dead", 1, nil); got != "flush set ip fleet dead\n" {
		t.Errorf("nobody: %q", got)
	}
	want := "flush set ip fleet cut\nadd element ip fleet cut { 127.10.0.1, 127.20.0.1, 127.21.0.1, 127.22.0.1, 127.10.1.1, 127.20.1.1, 127.21.1.1, 127.22.1.1 }\n"
	if got := setMembers("cut", 3, []int{0, 250}); got != want {
		t.Errorf("two hosts: %q", got)
	}
}
