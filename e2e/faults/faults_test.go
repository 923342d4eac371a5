package faults

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	hosts    = []string{"f1", "f2", "f3"}
	services = []string{"one", "two"}
)

func take(seed uint64, n int) (all []Step) {
	for s := range Plan(seed, Cluster{hosts, services, hosts[:1]}) {
		if all = append(all, s); len(all) == n {
			break
		}
	}
	return all
}

func TestPlanIsOfTheSeedAlone(t *testing.T) {
	if a, b := take(7, 100), take(7, 100); !slices.Equal(a, b) {
		t.Error("one seed makes two plans")
	}
	if a, b := take(7, 100), take(8, 100); slices.Equal(a, b) {
		t.Error("two seeds make one plan")
	}
}

func TestPlanHasEveryKindOnceARound(t *testing.T) {
	all := take(3, 5*len(kinds))
	for round := range slices.Chunk(all, len(kinds)) {
		seen := map[Kind]bool{}
		for _, s := range round {
			seen[s.Kind] = true
		}
		if len(seen) != len(kinds) {
			t.Errorf("a round has %d of %d kinds: %v", len(seen), len(kinds), round)
		}
	}
}

func TestPlanNamesWhatItNeeds(t *testing.T) {
	tasks, starts := map[string]int{}, 0
	for _, s := range take(5, 40*len(kinds)) {
		k := kinds[slices.IndexFunc(kinds, func(k struct {
			kind        Kind
			least, most time.Duration
		}) bool {
			return k.kind == s.Kind
		})]
		if s.Lasts < k.least || s.Lasts > k.most {
			t.Errorf("%v: it is to last %v to %v", s, k.least, k.most)
		}
		if !slices.Contains(hosts, s.Host) {
			t.Errorf("%v: no such host", s)
		}
		if task := s.Kind == TaskKilled || s.Kind == TaskFrozen; task != slices.Contains(services, s.Service) {
			t.Errorf("%v: its service is %q", s, s.Service)
		} else if task {
			tasks[s.Service+"-"+s.Host]++
		}
		if apart := s.Kind == HostsApart; apart != slices.Contains(hosts, s.Other) || s.Other == s.Host {
			t.Errorf("%v: the other host is %q", s, s.Other)
		}
		if s.Restarts && !slices.Contains(withRestart, s.Kind) {
			t.Errorf("%v: its agent restarts", s)
		}
		if skewed := s.Kind == ClockSkewed; skewed != (s.Skew != 0) || s.Skew.Abs() > 24*time.Hour || s.Skew%time.Second != 0 {
			t.Errorf("%v: its clock is wrong by %v", s, s.Skew)
		}
		if strings.HasPrefix(string(s.Kind), "store") && s.Host != "f1" {
			t.Errorf("%v: that host serves no store", s)
		}
		if s.Starts == "" != (s.StartsOn == "") || s.Starts != "" && !(slices.Contains(services, s.Starts) && slices.Contains(hosts, s.StartsOn)) {
			t.Errorf("%v: it starts %q on %q", s, s.Starts, s.StartsOn)
		} else if s.Starts != "" {
			starts++
			if s.Kind == EngineFrozen && s.StartsOn == s.Host {
				t.Errorf("%v: that engine starts nothing", s)
			}
		}
	}
	if starts < 200 || starts > 280 {
		t.Errorf("something starts in %d of %d steps, want about half", starts, 40*len(kinds))
	}
	for task, n := range tasks {
		if n < 13 || n > 14 {
			t.Errorf("task %s is broken %d times of 80, with six tasks", task, n)
		}
	}
}

func TestPlanOfAClusterWithManyServers(t *testing.T) {
	served := map[string]bool{}
	n := 0
	for s := range Plan(1, Cluster{hosts, services, hosts}) {
		switch s.Kind {
		case StoreRestored:
			t.Fatalf("%v: the others have it still", s)
		case StoreKilled, StoreFrozen:
			served[s.Host] = true
		}
		if n++; n == 200 {
			break
		}
	}
	if len(served) != len(hosts) {
		t.Errorf("only the stores of %v break", served)
	}
}

func TestExcuse(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(s float64) time.Time { return t0.Add(time.Duration(s * float64(time.Second))) }
	w := func(s Step, began, undone float64) []Window {
		w := Window{Step: s, Began: at(began), Broken: at(began)}
		if undone > 0 {
			w.Undone = at(undone)
		}
		return []Window{w}
	}
	request := func(from, via, service string, begun, ended float64) Request {
		return Request{From: from, Via: via, Service: service, Begun: at(begun), Ended: at(ended), Error: "timeout"}
	}
	closed := func(from, via, service string, begun, ended float64) Request {
		r := request(from, via, service, begun, ended)
		r.Error = aborted
		return r
	}
	killed := w(Step{Kind: TaskKilled, Host: "f1", Service: "one"}, 10, 15)
	cut := w(Step{Kind: HostCut, Host: "f1"}, 10, 20)
	short := w(Step{Kind: HostCut, Host: "f1"}, 10, 11)
	apart := w(Step{Kind: HostsApart, Host: "f1", Other: "f2"}, 10, 20)
	restarted := w(Step{Kind: HostCut, Host: "f1", Restarts: true}, 10, 20)
	restarted[0].Restarted = at(12)
	for _, c := range []struct {
		what    string
		windows []Window
		r       Request
		excused bool
	}{
		{"no fault", nil, request("f1", "f1", "one", 1, 2), false},
		{"under way as its task is killed", killed, request("f2", "f2", "one", 9.9, 10.1), true},
		{"just after its task was killed", killed, request("f2", "f2", "one", 10.9, 15), true},
		{"long after its task was killed", killed, request("f2", "f2", "one", 11.1, 12), false},
		{"as its task starts again", killed, request("f2", "f2", "one", 15, 15.1), false},
		{"another service's task was killed", killed, request("f2", "f2", "two", 10.1, 10.2), false},
		{"it ended before", killed, request("f2", "f2", "one", 9, 9.9), false},

		{"to a host that is cut off", cut, request("outside", "f1", "one", 18, 23), true},
		{"to a host that is back", cut, request("outside", "f1", "one", 20.1, 25), false},
		{"to another host, at first", cut, request("outside", "f2", "one", 12.9, 18), true},
		{"to another host, later", cut, request("outside", "f2", "one", 13.1, 18), false},
		{"on the host that is cut off, at first", cut, request("f1", "f1", "one", 12, 17), true},
		{"on the host that is cut off, later", cut, request("f1", "f1", "one", 14, 17), false},
		{"on the host that is cut off, its agent having just started", restarted, request("f1", "f1", "one", 14, 17), true},
		{"on another host, that agent having just started", restarted, request("f2", "f2", "one", 14, 17), false},
		{"on another host, the cut being short", short, request("f2", "f2", "one", 11.1, 16), false},
		{"while it is cut off still", w(Step{Kind: HostCut, Host: "f1"}, 10, 0), request("outside", "f1", "one", 300, 305), true},

		{"by one of two that are cut apart, at first", apart, request("outside", "f2", "one", 11, 16), true},
		{"by one of two that are cut apart, later", apart, request("outside", "f2", "one", 14, 16), false},
		{"by the third of three, two being cut apart", apart, request("outside", "f3", "one", 11, 16), false},

		{"an agent is killed", w(Step{Kind: AgentKilled, Host: "f1"}, 10, 20), request("f1", "f1", "one", 10, 11), false},
		{"an agent is frozen", w(Step{Kind: AgentFrozen, Host: "f1"}, 10, 20), request("f1", "f1", "one", 10, 11), false},
		{"an engine is frozen", w(Step{Kind: EngineFrozen, Host: "f1"}, 10, 20), request("f1", "f1", "one", 10, 11), false},
		{"the store is killed", w(Step{Kind: StoreKilled, Host: "f1"}, 10, 20), request("f1", "f1", "one", 10, 11), false},
		{"the store is frozen", w(Step{Kind: StoreFrozen, Host: "f1"}, 10, 20), request("f1", "f1", "one", 10, 11), false},
		{"the store is restored", w(Step{Kind: StoreRestored, Host: "f1"}, 10, 20), request("f1", "f1", "one", 10, 11), false},
		{"a disk is full", w(Step{Kind: DiskFull, Host: "f1"}, 10, 20), request("f1", "f1", "one", 10, 11), false},
		{"a clock is wrong", w(Step{Kind: ClockSkewed, Host: "f1"}, 10, 20), request("f1", "f1", "one", 10, 11), false},
		{"closed as a host that is back is taken for dead", short, closed("f2", "f2", "one", 11.5, 11.7), true},
		{"closed long after a host is back", short, closed("f2", "f2", "one", 12.9, 13.1), false},
		{"not closed, with a host that is back", short, request("f2", "f2", "one", 11.5, 11.7), false},
		{"a link is slow", w(Step{Kind: LinkDelayed, Host: "f1"}, 10, 20), request("f1", "f1", "one", 10, 11), false},
		{"an earlier fault of several", append(slices.Clone(killed), w(Step{Kind: AgentKilled, Host: "f2"}, 16, 18)...), request("f2", "f2", "one", 10.5, 15.5), true},
	} {
		if why := Excuse(c.windows, c.r, Native); (why != "") != c.excused {
			t.Errorf("%s: excused by %q, want %v", c.what, why, c.excused)
		}
	}
}

func TestAnAnswerOfAnotherServiceIsWrong(t *testing.T) {
	for by, wrong := range map[string]bool{"": false, "one-f1": false, "one-f3": false, "two-f1": true, "oneself-f1": true, "3f2a81": true} {
		if got := (Request{Service: "one", By: by}).Wrong(); got != wrong {
			t.Errorf("answered by %q: wrong is %v", by, got)
		}
	}
}

func TestDifferences(t *testing.T) {
	want := View{
		VIPs:     map[string]string{"default/one": "10.96.0.1", "default/two": "10.96.0.2"},
		Rotation: []string{"one on f1", "two on f1"},
		Kernel:   []string{"VIP: one on f1", "VIP: two on f1"},
	}
	same, other := want, want
	same.Host, other.Host = "f1", "f2"
	other.VIPs = map[string]string{"default/one": "10.96.0.9", "default/more": "10.96.0.2"}
	other.Rotation, other.Others = []string{"one on f1"}, []string{"two on f1, lost"}
	other.Kernel = []string{"VIP: one on f1", "VIP: two on f1", "VIP: two on f3"}
	if got := Differences(want, []View{same}); len(got) > 0 {
		t.Errorf("it agrees, and differs: %q", got)
	}
	got := Differences(want, []View{same, other})
	is := []string{
		`f2 has "" as the VIP of default/two, which is 10.96.0.2`,
		`f2 has "10.96.0.9" as the VIP of default/one, which is 10.96.0.1`,
		`f2 has in its kernel: VIP: two on f3`,
		`f2 has in no rotation: two on f1, lost`,
		`f2 has the service default/more, which is none`,
		`f2 lacks in rotation: two on f1`,
	}
	if !reflect.DeepEqual(got, is) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(is, "\n"))
	}
}
