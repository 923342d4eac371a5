package agent

import (
	"net/netip"
	"strings"
	"testing"

	"shoal/model"
)

func TestATaskThatOtherHostsDoNotReachIsAProblem(t *testing.T) {
	a := model.Node{Name: "a", Addr: netip.MustParseAddr("192.0.2.1"), Subnet: netip.MustParsePrefix("10.244.0.0/24")}
	b := model.Node{Name: "b", Addr: netip.MustParseAddr("192.0.2.2"), Subnet: netip.MustParsePrefix("10.244.1.0/24")}
	at := func(node string, addrs ...string) model.Container {
		c := model.Container{Node: node}
		for _, addr := range addrs {
			c.Tasks = append(c.Tasks, model.Task{Node: node, Addr: netip.MustParseAddr(addr), Service: model.ServiceID{Stack: "s", Name: "web"}})
		}
		return c
	}
	refused := at("b")
	refused.Problem, refused.ProblemCode = "label x", model.LabelsInvalid
	for name, tc := range map[string]struct {
		c     model.Container
		nodes []model.Node
		self  model.Node
		code  model.Code // "": no problem
		says  string     // a part of it
	}{
		"on the mesh":                   {c: at("a", "10.244.0.7"), nodes: []model.Node{a, b}, self: a},
		"a process of the host":         {c: at("a", "192.0.2.1"), nodes: []model.Node{a, b}, self: a},
		"elsewhere":                     {c: at("a", "172.17.0.2"), nodes: []model.Node{a, b}, self: a, code: model.TaskUnreached, says: "172.17.0.2, so it serves s/web here and on no other host; start it anew with --network front,"},
		"one of two":                    {c: at("a", "10.244.0.7", "172.17.0.2"), nodes: []model.Node{a, b}, self: a, code: model.TaskUnreached, says: "172.17.0.2"},
		"elsewhere, on a lone host":     {c: at("a", "172.17.0.2"), nodes: []model.Node{a}, self: a},
		"elsewhere, of another host":    {c: at("b", "172.17.0.2"), nodes: []model.Node{a, b}, self: a},
		"before the host has a network": {c: at("a", "172.17.0.2"), nodes: []model.Node{a, b}, self: model.Node{Name: "a"}},
		"without tasks":                 {c: at("a"), nodes: []model.Node{a, b}, self: a},
		"refused":                       {c: refused, nodes: []model.Node{a, b}, self: a, code: model.LabelsInvalid, says: "label x"},
	} {
		code, got := problemOf(&tc.c, &model.Snapshot{Self: tc.self, Nodes: tc.nodes}, "front")
		if code != tc.code || (got == "") != (tc.says == "") || !strings.Contains(got, tc.says) {
			t.Errorf("%s: %s, %q, want %s, %q", name, code, got, tc.code, tc.says)
		}
	}
}
