package ingress

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/lb"
)

// The priorities of the routing rules by mark: before the main table, and after the local
// one and the data plane's own rule of priority 540. The kernel looks at one rule
// after the other, and there is one for each other host. So those are in groups, by the
// end of the host's number, and rules before them lead to each group. A packet without a
// mark of ours is led past all of them.
const (
	pastPriority  = 539
	planePriority = 540 // the data plane's, by mark number 0; earlier versions of this package had theirs here too
	leadPriority  = 541
	groupPriority = 542 // of the first group
	endPriority   = groupPriority + groups

	groups = 32 // a power of two
)

// priorities are those of all rules by mark.
func priorities() []uint32 {
	var all []uint32
	for p := uint32(pastPriority); p <= endPriority; p++ {
		all = append(all, p)
	}
	return all
}

// ruleKey is what makes a routing rule one of these. A rule of another protocol is
// another one: see lb.RuleProtocol.
type ruleKey struct {
	priority   int
	mark, mask uint32
	inverted   bool
	goesTo     int // the priority; 0: no other rule
	table      int // 0: none
	protocol   uint8
}

// doesNothing tells whether the rule is only there to be led to.
func (k ruleKey) doesNothing() bool { return k.table == 0 && k.goesTo == 0 }

func keyOf(r *netlink.Rule) ruleKey {
	k := ruleKey{priority: r.Priority, mark: r.Mark, inverted: r.Invert, goesTo: max(r.Goto, 0), table: r.Table, protocol: r.Protocol}
	if r.Mask != nil {
		k.mask = *r.Mask
	}
	return k
}

func (k ruleKey) rule() *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Mark, r.Invert, r.Table, r.Protocol = netlink.FAMILY_V4, k.priority, k.mark, k.inverted, k.table, k.protocol
	if k.mask != 0 {
		r.Mask = &k.mask
	}
	if k.goesTo != 0 {
		r.Goto = k.goesTo
	}
	if k.doesNothing() {
		r.Type = nl.FR_ACT_NOP
	}
	return r
}

// rulesFor are the routing rules that lead packets with these marks to the tables that
// have the numbers of the marks. Each stands after those that it leads to.
func rulesFor(marks []uint32) (all []ruleKey) {
	if len(marks) == 0 {
		return nil
	}
	all = append(all, ruleKey{priority: endPriority})
	var led [groups]bool
	for _, m := range marks {
		group := m % groups
		led[group] = true
		all = append(all, ruleKey{priority: groupPriority + int(group), mark: m, mask: lb.MarkMask, table: int(m)})
	}
	for group, led := range led {
		if led {
			all = append(all, ruleKey{priority: leadPriority, mark: lb.PacketMark | uint32(group), mask: lb.MarkKind | (groups - 1), goesTo: groupPriority + group})
		}
	}
	all = append(all, ruleKey{priority: pastPriority, mark: lb.PacketMark, mask: lb.MarkKind, inverted: true, goesTo: endPriority})
	for i := range all {
		all[i].protocol = lb.RuleProtocol
	}
	return all
}

// ourRules are the rules by mark that there are, of earlier versions too.
func ourRules() ([]netlink.Rule, error) {
	rs, err := kernel.Dump(func() ([]netlink.Rule, error) { return netlink.RuleList(netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list the routing rules: %w", err)
	}
	var ours []netlink.Rule
	for _, r := range rs {
		if isOurs(keyOf(&r)) {
			ours = append(ours, r)
		}
	}
	return ours, nil
}

func isOurs(k ruleKey) bool {
	if k.priority < pastPriority || k.priority > endPriority {
		return false
	}
	switch kind := k.mark & lb.MarkKind; kind {
	case lb.PacketMark, lb.ConnMark: // that of connections is an earlier version's
		return k.priority != planePriority || k.mark != lb.PacketMark
	default:
		return k.doesNothing() && k.mark == 0 && k.protocol == lb.RuleProtocol
	}
}

// kernelKey is what the kernel takes two rules to be one by: not by where they lead, nor by
// their protocol (net/core/fib_rules.c, rule_exists and rule_find).
func (k ruleKey) kernelKey() ruleKey {
	k.goesTo, k.protocol = 0, 0
	return k
}

// keepRules makes the routing rules be those for these marks, and takes away the others
// with the tables that no mark leads to any more.
func keepRules(marks []uint32) error {
	rs, err := ourRules()
	if err != nil {
		return err
	}
	have := map[ruleKey]ruleKey{} // by what the kernel takes them for
	for _, r := range rs {
		k := keyOf(&r)
		have[k.kernelKey()] = k
	}
	var errs []error
	tables := map[int]bool{}
	for _, k := range rulesFor(marks) {
		tables[k.table] = true
		before, stands := have[k.kernelKey()]
		delete(have, k.kernelKey())
		if before == k {
			continue
		}
		if stands {
			errs = append(errs, dropRule(before))
		}
		kernel.Wrote("rule", 1)
		if err := netlink.RuleAdd(k.rule()); err != nil {
			errs = append(errs, fmt.Errorf("add the routing rule of priority %d and mark %#x: %w", k.priority, k.mark, err))
		}
	}
	for _, k := range have {
		if k.table != 0 && !tables[k.table] {
			errs = append(errs, dropTable(k.table))
		}
		errs = append(errs, dropRule(k))
	}
	return errors.Join(errs...)
}

func dropRule(k ruleKey) error {
	kernel.Wrote("rule", 1)
	if err := netlink.RuleDel(k.rule()); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete the routing rule of priority %d and mark %#x: %w", k.priority, k.mark, err)
	}
	return nil
}

// dropTable takes away the route of a table.
func dropTable(table int) error {
	kernel.Wrote("route", 1)
	err := netlink.RouteDel(&netlink.Route{Dst: everywhere, Table: table})
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete the route of mark %#x: %w", table, err)
	}
	return nil
}
