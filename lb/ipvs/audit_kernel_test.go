//go:build e2e

package ipvs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shoal/kernel/ipset"
	"shoal/kernel/ipvs"
	"shoal/lb"
)

// TestWhatOthersBreakAmongManyServicesIsRepaired: at once where something is missing or too much, else within a round.
func TestWhatOthersBreakAmongManyServicesIsRepaired(t *testing.T) {
	l := newLarge(t)
	const n = 4000
	l.pass("fill", services(n), false)
	h, err := ipvs.New(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	marks, err := ipset.List(setVIP.Name)
	if err != nil {
		t.Fatal(err)
	}
	var vip ipset.Entry
	for vip = range marks {
		break
	}
	mark := marks[vip]
	service := func() (string, error) {
		all, _, err := h.Services()
		v, has := all[mark]
		if err != nil || !has {
			return "none", err
		}
		dests, err := h.ReadDestinations(mark, v.Destinations)
		return fmt.Sprint(v, dests), err
	}
	set := func(s ipset.Set) func() (string, error) {
		return func() (string, error) {
			held, err := ipset.List(s.Name)
			if errors.Is(err, ipset.ErrNotExist) {
				return "none", nil
			}
			return fmt.Sprintf("%d entries, the mark of %s is %#x", len(held), vip, held[vip]), err
		}
	}
	orphans := func() (string, error) {
		count, err := h.Count()
		return fmt.Sprintf("%d services", count), err
	}
	var one string
	for addr := range maps.Keys(l.host.table.known[mark].Dests) {
		one = addr.Addr().String()
	}
	passes := l.round() + 1 // it may be behind what is broken
	t.Logf("a round takes %d passes", passes-1)
	for _, tc := range []struct {
		name, harm string
		state      func() (string, error)
		within     int // passes
	}{
		{"a service deleted", fmt.Sprintf("ipvsadm -D -f %d", mark), service, 1},
		{"a service of nobody's", fmt.Sprintf("ipvsadm -A -f %d -s rr", marksOf|maxMarks), orphans, 1},
		{"all services deleted", "ipvsadm -C", orphans, 1},
		{"a set deleted", "iptables -t mangle -F SHOAL-MARK; ipset destroy " + setVIP.Name, set(setVIP), 1},
		{"a set flushed", "ipset flush " + setTasks.Name, set(setTasks), 1},
		{"an entry deleted", fmt.Sprintf("ipset del %s %s", setVIP.Name, vip), set(setVIP), 1},
		{"an entry too many", "ipset add " + setVIP.Name + " 192.0.2.99 skbmark 0x7", set(setVIP), 1},
		{"another mark", fmt.Sprintf("ipset add %s %s skbmark 0x7 -exist", setVIP.Name, vip), set(setVIP), passes},
		{"another scheduler", fmt.Sprintf("ipvsadm -E -f %d -s lc", mark), service, passes},
		{"another weight", fmt.Sprintf("ipvsadm -e -f %d -r %s -m -w 7", mark, one), service, passes},
		{"a destination deleted", fmt.Sprintf("ipvsadm -d -f %d -r %s", mark, one), service, passes},
		{"a service replaced by one of nobody's", fmt.Sprintf("ipvsadm -D -f %d; ipvsadm -A -f %d -s rr", mark, marksOf|maxMarks), both(orphans, service), passes + 1},
	} {
		state := func() string {
			s, err := tc.state()
			if err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			return s
		}
		want := state()
		l.sh(tc.harm)
		if state() == want {
			t.Fatalf("%s: no harm is done: the test shows nothing", tc.name)
		}
		took := 0
		for took < tc.within && state() != want {
			l.pass(tc.name, lb.Delta{}, true)
			took++
		}
		if d := cmp.Diff(want, state()); d != "" {
			t.Errorf("%s: after %d full passes: %s", tc.name, took, d)
			continue
		}
		t.Logf("%-40s repaired by full pass %d", tc.name, took)
	}
}

// round is how many full passes it takes to read all of a plane's host.
func (l large) round() int {
	r := round{work: work{sets: l.host.sets, list: true}}
	for mark := range l.host.table.known {
		r.marks = append(r.marks, mark)
	}
	passes := 0
	for ; !r.over(); passes++ {
		r.turn(auditShare, func(set ipset.Set) int { return len(l.host.held[set.Name]) })
	}
	return passes
}

// both tells two states.
func both(a, b func() (string, error)) func() (string, error) {
	return func() (string, error) {
		x, err := a()
		if err != nil {
			return "", err
		}
		y, err := b()
		return x + ", " + y, err
	}
}
