package dnsd

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shoal/catalog"
	"shoal/model"
)

// content is what a table says, in a form that can be compared.
func content(t *table) map[string]string {
	all := map[string]string{"public": fmt.Sprint(t.public)}
	for key, s := range t.services.All() {
		all["service "+key] = fmt.Sprint(s.of.ID, s.addrs, s.tasks, len(s.srv), s.listed, s.idle)
		for sub, set := range s.srv {
			all["service "+key+" "+sub] = fmt.Sprint(*set)
		}
	}
	for key, n := range t.named.All() {
		all["name "+key] = fmt.Sprintf("%v %t %d", n.one.of.ID, n.several, len(n.all))
	}
	for key, n := range t.stacks.All() {
		all["stack "+key] = fmt.Sprint(n)
	}
	for addr, n := range t.ptr.All() {
		all["address "+addr.String()] = fmt.Sprintf("%x %d %t", n.set.records, n.set.n, n.set.mixed)
	}
	return all
}

// TestAnEditedTableIsAsOneMadeAnew, after any changes: of services that share names, stacks and addresses.
func TestAnEditedTableIsAsOneMadeAnew(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	s := unstarted(t, options())
	m := catalog.NewMaker(model.Node{Name: "h1", Addr: ip("192.0.2.1")})
	edited := buildTable(&s.opt, &s.zone, m.Snapshot(), nil)
	skipped := edited
	stacks := []string{"default", "shop", "blog", "com"}
	for round := range 400 {
		for range 1 + rnd.IntN(3) {
			i := rnd.IntN(30)
			id := fmt.Sprint(i)
			service := model.ServiceID{Stack: stacks[rnd.IntN(len(stacks))], Name: fmt.Sprintf("web%d", rnd.IntN(3))}
			switch rnd.IntN(4) {
			case 0:
				m.DeleteContainer("h1", id)
			case 1:
				m.PutVIP(service, netip.AddrFrom4([4]byte{10, 96, 0, byte(rnd.IntN(8))})) // two may have one for a while
			default:
				addr := netip.AddrFrom4([4]byte{10, 244, 1, byte(rnd.IntN(12))})
				m.PutContainer(model.Container{ID: id, Name: id, Node: "h1", Stack: service.Stack, Addrs: []netip.Addr{addr}, Tasks: []model.Task{{
					Service: service, Node: "h1", Container: id, Addr: addr, State: []model.State{model.Running, model.Paused}[rnd.IntN(2)],
					Spec: &model.Spec{Mode: model.ModeVIP, Ports: []model.Port{{Name: "http", Port: 80, Target: uint16(8000 + rnd.IntN(2)), Protocol: model.TCP}}},
				}}})
			}
		}
		snap := m.Snapshot()
		edited = buildTable(&s.opt, &s.zone, snap, edited)
		if d := cmp.Diff(content(buildTable(&s.opt, &s.zone, snap, nil)), content(edited)); d != "" {
			t.Fatalf("round %d: %s", round, d)
		}
		if round%90 == 89 { // so much later that the Snapshot does not know what changed
			skipped = buildTable(&s.opt, &s.zone, snap, skipped)
			if d := cmp.Diff(content(edited), content(skipped)); d != "" {
				t.Fatalf("round %d, with Snapshots left out: %s", round, d)
			}
		}
	}
	if len(content(edited)) < 40 {
		t.Errorf("only %d things were compared", len(content(edited)))
	}
}
