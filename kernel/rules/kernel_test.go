//go:build e2e

package rules

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"

	"shoal/kernel"
)

// mesh is chains as they are kept on a host, in every table.
var mesh = []Chain{
	{Table: "raw", Name: "SHOAL-T", From: []Jump{{From: "PREROUTING"}}, Rules: []string{"-i lo -j ACCEPT"}},
	{Table: "mangle", Name: "SHOAL-T", From: []Jump{{From: "PREROUTING", Match: "-d 10.96.0.0/16"}, {From: "OUTPUT"}}, Rules: []string{
		"-p tcp -j MARK --set-xmark 0x1/0xffffffff"}},
	{Table: "nat", Name: "SHOAL-T", From: []Jump{{From: "POSTROUTING"}}, Rules: []string{"-s 10.244.0.0/24 -j MASQUERADE"}},
	{Table: "filter", Name: "SHOAL-T", From: []Jump{{From: "INPUT", Match: "-d 10.96.0.0/16"}}, Rules: []string{
		"-p udp --dport 53 -j ACCEPT", "-p icmp -j ACCEPT", "-p tcp -j SHOAL-SUB", "-j REJECT"}},
	{Table: "filter", Name: "SHOAL-SUB", Rules: []string{"-p tcp -j REJECT --reject-with tcp-reset"}},
}

// ownHost puts the test on a thread in a network namespace of its own, for good.
func ownHost(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if _, err := netns.New(); err != nil {
		t.Fatal(err)
	}
}

func sh(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// keep passes once and counts the edits.
func keep(t *testing.T, want []Chain) int {
	t.Helper()
	before, start := kernel.Total(), time.Now()
	wrong, err := Keep(context.Background(), want)
	if err != nil {
		t.Fatal(err)
	}
	n := kernel.Total() - before
	t.Logf("%3d edits in %v: %s", n, time.Since(start).Round(time.Millisecond), Brief(wrong))
	if (n > 0) != (len(wrong) > 0) {
		t.Errorf("%d edits, and wrong was %q", n, wrong)
	}
	return n
}

// rulesNow are all rules.
func rulesNow(t *testing.T) string {
	t.Helper()
	return sh(t, "for t in raw mangle nat filter; do iptables -w -t $t -S; done")
}

func TestUnchangedPassWritesNothing(t *testing.T) {
	ownHost(t)
	if n := keep(t, mesh); n != 18 {
		t.Errorf("the first pass made %d edits, want one for each of 5 chains, 8 rules and 5 jumps", n)
	}
	for range 2 {
		if n := keep(t, mesh); n != 0 {
			t.Errorf("%d edits with nothing changed", n)
		}
	}
}

func TestTableIsReadAgainOnlyIfItHasChanged(t *testing.T) {
	ownHost(t)
	keep(t, mesh)
	read := func() uintptr {
		state, err := Read(context.Background(), "filter")
		if err != nil {
			t.Fatal(err)
		}
		return reflect.ValueOf(state["filter"]).Pointer()
	}
	first := read()
	sh(t, "ip link set lo up; iptables -I INPUT 1 -i lo -j ACCEPT")
	second := read()
	if second == first {
		t.Error("a rule more went unnoticed")
	}
	sh(t, "ping -q -c 2 127.0.0.1")
	if read() != second {
		t.Error("it was read again for the counters of its rules")
	}
	sh(t, "iptables -P FORWARD DROP")
	if read() == second {
		t.Error("another policy went unnoticed")
	}
	if _, err := netns.New(); err != nil {
		t.Fatal(err)
	}
	if state, err := Read(context.Background(), "filter"); err != nil || len(state["filter"]) != 3 {
		t.Errorf("in another namespace: %v, %v", state, err)
	}
}

func TestWhatOthersBreakIsRepairedAndNothingElse(t *testing.T) {
	const foreign = `iptables -w -N OTHERS; iptables -w -A OTHERS -m comment --comment 'two words "quoted"' -j ACCEPT; iptables -w -A INPUT -j OTHERS;
iptables -w -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE`
	for name, harm := range map[string]string{
		"all flushed, foreign rules put back": "for t in raw mangle nat filter; do iptables -t $t -F; iptables -t $t -X; done;" + foreign,
		"a chain flushed":                     "iptables -F SHOAL-T",
		"a rule deleted":                      "iptables -D SHOAL-T 2",
		"rules added":                         "iptables -I SHOAL-T 1 -j ACCEPT; iptables -A SHOAL-T -j ACCEPT",
		"the last rule replaced":              "iptables -R SHOAL-T 4 -j DROP",
		"a sub-chain flushed":                 "iptables -F SHOAL-SUB",
		"a jump deleted":                      "iptables -t mangle -D OUTPUT 1",
		"somebody else's rule in front":       "iptables -I INPUT 1 -s 192.0.2.0/24 -j DROP",
		"the jump again, in other words":      "iptables -A INPUT -m comment --comment 'of \"old\"' -j SHOAL-T",
	} {
		t.Run(name, func(t *testing.T) {
			ownHost(t)
			sh(t, foreign)
			keep(t, mesh)
			want := rulesNow(t)
			sh(t, harm)
			if n := keep(t, mesh); n == 0 {
				t.Error("no edits")
			}
			if name == "somebody else's rule in front" {
				sh(t, "iptables -D INPUT -s 192.0.2.0/24 -j DROP") // it was left alone
			}
			if d := cmp.Diff(want, rulesNow(t)); d != "" {
				t.Error(d)
			}
			if n := keep(t, mesh); n != 0 {
				t.Errorf("the pass after the repair made %d edits", n)
			}
		})
	}
}

func TestRemovedChainsLeaveNoTrace(t *testing.T) {
	ownHost(t)
	sh(t, "iptables -A INPUT -s 192.0.2.0/24 -j DROP")
	before := rulesNow(t)
	keep(t, mesh)
	sh(t, "iptables -A INPUT -j SHOAL-T")
	for range 2 {
		if err := Remove(context.Background(), "SHOAL-T", "SHOAL-SUB"); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(before, rulesNow(t)); d != "" {
			t.Error(d)
		}
	}
}

func TestTableThatFailsLeavesTheOthersToThemselves(t *testing.T) {
	ownHost(t)
	bad := append([]Chain{{Table: "mangle", Name: "SHOAL-BAD", Rules: []string{"-m set --match-set NO-SUCH-SET src -j ACCEPT"}}}, mesh...)
	if _, err := Keep(context.Background(), bad); err == nil {
		t.Error("no error of a rule that cannot be")
	}
	if n := keep(t, []Chain{mesh[0], mesh[2], mesh[3], mesh[4]}); n != 0 {
		t.Errorf("%d edits were left undone in tables that are well", n)
	}
}

// A packet passes the old version of a chain or the new one, however often
// they change.
func TestNoPacketIsLostWhileChainsChange(t *testing.T) {
	ownHost(t)
	versions := [2][]Chain{}
	for i := range versions {
		filler := fmt.Sprintf("-p tcp --dport %d -j DROP", i+1)
		versions[i] = []Chain{
			{Table: "filter", Name: "SHOAL-T", From: []Jump{{From: "INPUT"}}, Rules: []string{filler, "-p icmp -j SHOAL-SUB", "-j DROP"}},
			{Table: "filter", Name: "SHOAL-SUB", Rules: []string{filler, filler, "-j ACCEPT"}},
		}
	}
	keep(t, versions[0])
	sh(t, "iptables -P INPUT DROP; ip link set lo up")
	ping := exec.Command("ping", "-q", "-i", "0.005", "-W", "1", "127.0.0.1")
	var out bytes.Buffer
	ping.Stdout = &out
	if err := ping.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if n := keep(t, versions[(i+1)%2]); n == 0 {
			t.Error("no edits")
		}
	}
	if err := ping.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	ping.Wait()
	if !strings.Contains(out.String(), " 0% packet loss") || strings.Contains(out.String(), "\n0 packets") {
		t.Error(out.String())
	}
}

func TestChangesAreSignalled(t *testing.T) {
	ownHost(t)
	changed, err := Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ipt, err := program()
	if err != nil {
		t.Fatal(err)
	}
	if ipt.variant == legacy {
		if changed != nil {
			t.Error("the kernel does not notify of ip_tables, and yet there is a channel")
		}
		return
	}
	const quiet = 200 * time.Millisecond // several times as long as signals are gathered
	signalled := func(after string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(5 * time.Second):
			t.Errorf("no signal after: %s", after)
		}
		for more := true; more; {
			select {
			case <-changed:
			case <-time.After(quiet):
				more = false
			}
		}
	}
	sh(t, "iptables -N OTHERS")
	for _, harm := range []string{
		"iptables -I INPUT -j DROP", "iptables -D INPUT -j DROP", "iptables -F SHOAL-SUB", "iptables -t mangle -F",
		"nft delete table ip raw", "nft flush ruleset",
	} {
		if keep(t, mesh) > 0 {
			signalled("our own edits")
		}
		sh(t, "iptables -A OTHERS -j ACCEPT; iptables -F OTHERS; nft add table ip others; nft delete table ip others")
		select {
		case <-changed:
			t.Error("a signal of what concerns nobody here")
		case <-time.After(quiet):
		}
		sh(t, harm)
		signalled(harm)
	}
}
