package ingress

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"shoal/lb"
)

// walk has a packet with a mark pass rules, as the kernel does (net/core/fib_rules.c,
// fib_rules_lookup). It tells the table that the packet is led to, 0 for none, and how
// many rules it met.
func walk(rules []ruleKey, mark uint32) (table, met int) {
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(a, b ruleKey) int { return cmp.Compare(a.priority, b.priority) })
	for i := 0; i < len(rules); i++ {
		r := rules[i]
		met++
		if matches := (mark^r.mark)&r.mask == 0; matches == r.inverted {
			continue
		}
		switch {
		case r.table != 0:
			return r.table, met
		case r.goesTo != 0:
			i = slices.IndexFunc(rules, func(o ruleKey) bool { return o.priority == r.goesTo }) - 1
		}
	}
	return 0, met
}

func TestReplyIsLedToTheTableOfItsHost(t *testing.T) {
	for _, hosts := range []int{1, 2, 32, 33, 1000} {
		var marks []uint32
		for n := range hosts {
			marks = append(marks, packetMark(uint16(n+1)))
		}
		rules := rulesFor(marks)
		most := 1 + min(hosts, groups) + (hosts+groups-1)/groups
		for _, m := range marks {
			for _, between := range []uint32{0, 0x00ab0000} { // bits that are others'
				if table, met := walk(rules, m|between); table != int(m) || met > most {
					t.Errorf("of %d hosts %#x is led to table %#x, and meets %d rules, want %d at the most", hosts, m|between, table, met, most)
				}
			}
		}
		for mark, most := range map[uint32]int{
			0: 2, 0x1: 2, lb.ConnMark | 1: 2,
			// Of the data plane, which has a rule of its own before these, and of a host that is not known.
			lb.PacketMark: len(rules) + 1, packetMark(uint16(hosts + groups)): len(rules) + 1,
		} {
			if table, met := walk(rules, mark); table != 0 || met > most {
				t.Errorf("of %d hosts %#x is led to table %#x, and meets %d rules, want %d at the most", hosts, mark, table, met, most)
			}
		}
	}
	if rules := rulesFor(nil); rules != nil {
		t.Errorf("without other hosts there are rules: %v", rules)
	}
}

func TestRulesAreToldFromOthers(t *testing.T) {
	own := rulesFor([]uint32{packetMark(1), packetMark(34)})
	for i, r := range own {
		if !isOurs(r) {
			t.Errorf("not known as our own: %+v", r)
		}
		if got := keyOf(r.rule()); got != r {
			t.Errorf("made and read: %+v, want %+v", got, r)
		}
		if slices.ContainsFunc(own[i:], func(later ruleKey) bool { return r.goesTo == later.priority }) {
			t.Errorf("stands before what it leads to: %+v", r)
		}
	}
	const ours = lb.RuleProtocol
	for _, tt := range []struct {
		key  ruleKey
		want bool
		what string
	}{
		{ruleKey{priority: 540, mark: packetMark(7), mask: lb.MarkMask, table: int(packetMark(7)), protocol: ours}, true, "an earlier version's"},
		{ruleKey{priority: 540, mark: lb.ConnMark | 7, mask: lb.MarkMask, table: 7}, true, "a much earlier version's"},
		{ruleKey{priority: 541, protocol: ours}, true, "an earlier version's end"},
		{ruleKey{priority: 540, mark: lb.PacketMark, mask: lb.MarkMask, table: int(lb.PacketMark), protocol: ours}, false, "the data plane's"},
		{ruleKey{priority: 545, mark: 0x42, mask: 0xff, table: 100}, false, "somebody's, by another mark"},
		{ruleKey{priority: 545, table: 100, protocol: 3}, false, "somebody's for all packets"},
		{ruleKey{priority: 545, protocol: 3}, false, "somebody's that does nothing"},
		{ruleKey{priority: 600, mark: packetMark(7), mask: lb.MarkMask, table: 7}, false, "somebody's by our mark, elsewhere"},
	} {
		if got := isOurs(tt.key); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.what, got, tt.want)
		}
	}
	if p := priorities(); p[0] != 539 || p[len(p)-1] != 574 {
		t.Error(fmt.Sprint("priorities ", p))
	}
}
