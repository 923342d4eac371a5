package ingress

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"shoal/catalog"
	"shoal/model"
)

// TestClaimsOfChangesAreThoseOfTheWhole, after any changes.
func TestClaimsOfChangesAreThoseOfTheWhole(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	m := catalog.NewMaker(model.Node{Name: "b", Addr: netip.MustParseAddr("192.0.2.2"), Alive: true})
	for _, name := range []string{"a", "c"} {
		m.PutNode(model.Node{Name: name, Addr: netip.MustParseAddr("192.0.2.9"), Alive: true})
	}
	var kept Claimer
	seen := map[string]int{}
	for round := range 500 {
		node, id := string(rune('a'+rnd.IntN(3))), fmt.Sprint(rnd.IntN(8))
		service := model.ServiceID{Stack: "s", Name: fmt.Sprintf("web%d", rnd.IntN(4))}
		switch rnd.IntN(8) {
		case 0:
			m.DeleteContainer(node, id)
		case 1:
			m.SetAlive(map[string]bool{node: rnd.IntN(2) == 0})
		case 2:
			m.PutPort(model.PortClaim{Protocol: model.TCP, Port: uint16(8000 + rnd.IntN(4)), Service: service})
		default:
			task := model.Task{Service: service, Node: node, Container: id, State: model.Running, Started: time.Unix(int64(rnd.IntN(100)), 0), Spec: &model.Spec{}}
			for range rnd.IntN(3) {
				task.Spec.Publish = append(task.Spec.Publish, model.PublishedPort{Protocol: model.TCP, Published: uint16(8000 + rnd.IntN(4)), Target: 80})
			}
			m.PutContainer(model.Container{Node: node, ID: id, Name: id, Stack: "s", Tasks: []model.Task{task}})
		}
		snap := m.Snapshot()
		type result struct {
			Claim, Release []model.PortClaim
			Problems       []model.Problem
		}
		var want, got result
		want.Claim, want.Release, want.Problems = new(Claimer).Claims(snap, nil)
		got.Claim, got.Release, got.Problems = kept.Claims(snap, nil)
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Fatalf("round %d: %s", round, d)
		}
		seen["claims"] += len(got.Claim)
		seen["releases"] += len(got.Release)
		seen["problems"] += len(got.Problems)
	}
	for what, n := range seen {
		if n < 20 {
			t.Errorf("only %d %s came of it", n, what)
		}
	}
}
