package model

import (
	"slices"
	"testing"
	"time"
)

func TestOneProblemOfSeveralHostsIsOneGroup(t *testing.T) {
	old := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	full := func(node string, since time.Time) Problem {
		return Problem{Node: node, Code: VIPPoolFull, Kind: "service", Object: "s/web", Reason: "full", Since: since}
	}
	dead := func(by string) Problem {
		return Problem{Node: "c", By: by, Code: HostDead, Kind: "node", Object: "c", Reason: "silent", Since: old}
	}
	notice := full("a", old)
	notice.Notice = true
	groups := GroupProblems([]Problem{full("b", old.Add(time.Hour)), dead("b"), full("a", old), dead("a"), full("a", old), notice})
	if len(groups) != 3 {
		t.Fatalf("%d groups: %+v", len(groups), groups)
	}
	if g := groups[0]; !slices.Equal(g.Nodes, []string{"a", "b"}) || len(g.By) != 0 || !g.Since.Equal(old) {
		t.Errorf("the hosts' own: %+v", g)
	}
	if g := groups[1]; !slices.Equal(g.Nodes, []string{"c"}) || !slices.Equal(g.By, []string{"a", "b"}) {
		t.Errorf("what others see of a host: %+v", g)
	}
	if g := groups[2]; !g.Notice {
		t.Errorf("a notice is no problem: %+v", g)
	}
}
