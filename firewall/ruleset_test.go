package firewall

import (
	"testing"

	"github.com/google/nftables/expr"
)

func TestSetsHoldWhatTheKernelHasThemHold(t *testing.T) {
	plain := &Set{Elements: []Element{{Key: []byte{0, 80}}, {Key: []byte{1, 187}}}}
	ranges := &Set{Interval: true, Elements: []Element{{Key: []byte{10, 0, 0, 0}, End: []byte{11, 0, 0, 0}}, {Key: []byte{224, 0, 0, 0}}}}
	both := &Set{Interval: true, Elements: []Element{{Key: []byte{10, 0, 0, 0}, End: []byte{10, 0, 0, 9}, Concat: true}}}
	for name, tc := range map[string]struct {
		set  *Set
		key  []byte
		want bool
	}{
		"an entry":                                  {plain, []byte{1, 187}, true},
		"no entry":                                  {plain, []byte{0, 81}, false},
		"the first of a range":                      {ranges, []byte{10, 0, 0, 0}, true},
		"the last of a range":                       {ranges, []byte{10, 255, 255, 255}, true},
		"one after":                                 {ranges, []byte{11, 0, 0, 0}, false},
		"in a range that has no end":                {ranges, []byte{255, 255, 255, 255}, true},
		"the last of a concatenation's":             {both, []byte{10, 0, 0, 9}, true},
		"the one after a concatenation's":           {both, []byte{10, 0, 0, 10}, false},
		"the one before a range, which is no entry": {ranges, []byte{9, 255, 255, 255}, false},
	} {
		if _, has := tc.set.holds(tc.key); has != tc.want {
			t.Errorf("%s: %t", name, has)
		}
	}
}

// A map of verdicts is how many firewalls begin, firewalld and the engine among
// them.
func TestAMapOfVerdictsLeadsOn(t *testing.T) {
	state := []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: "m", IsDestRegSet: true}}
	base := &Chain{Name: "input", Hook: "input", Rules: []Rule{state, {verdict(expr.VerdictAccept, "")}}}
	tab := table("t", base, &Chain{Name: "new", Rules: []Rule{{verdict(expr.VerdictDrop, "")}}})
	flow := testHost().Flows()[0]
	for key, dropped := range map[uint32]bool{expr.CtStateBitNEW: true, expr.CtStateBitESTABLISHED: false} {
		tab.Sets["m"] = &Set{Elements: []Element{{Key: native(key).b, Verdict: verdict(expr.VerdictJump, "new")}}}
		if by := tab.walk(base, &flow.Packet); (by != "") != dropped {
			t.Errorf("state %d: dropped by %q, want %t", key, by, dropped)
		}
	}
}
