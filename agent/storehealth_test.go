package agent

import (
	"errors"
	"strings"
	"testing"

	"shoal/model"
)

func TestWhatIsWrongWithTheStoreIsToldWithWhatToDo(t *testing.T) {
	roomy := storeHealth{free: lowDisk, dir: "/var/lib/shoal"}
	for name, test := range map[string]struct {
		change func(*storeHealth)
		code   model.Code
		says   string
	}{
		"nothing":               {func(*storeHealth) {}, "", ""},
		"a disk nobody can ask": {func(h *storeHealth) { h.free = -1 }, "", ""},
		"away":                  {func(h *storeHealth) { h.away = true }, model.StoreUnreachable, "shoal nodes"},
		"away, of the user's":   {func(h *storeHealth) { h.away, h.external = true, true }, model.StoreUnreachable, "--etcd"},
		"away, as it is down":   {func(h *storeHealth) { h.away, h.down = true, errors.New("no space left") }, model.StoreDown, "no space left"},
		"full":                  {func(h *storeHealth) { h.full = true }, model.StoreFull, "remove services"},
		"full, of the user's":   {func(h *storeHealth) { h.full, h.external = true, true }, model.StoreFull, "alarm disarm"},
		"down":                  {func(h *storeHealth) { h.down = errors.New("no space left") }, model.StoreDown, "no space left"},
		"little room":           {func(h *storeHealth) { h.free = 499e6 }, model.DiskNearlyFull, "/var/lib/shoal has 499 MB left"},
	} {
		h := roomy
		test.change(&h)
		ps := h.problems("a")
		if test.code == "" {
			if len(ps) > 0 {
				t.Errorf("%s: %+v", name, ps)
			}
			continue
		}
		if len(ps) != 1 || ps[0].Code != test.code || ps[0].Node != "a" || !strings.Contains(ps[0].Reason, test.says) {
			t.Errorf("%s: %+v", name, ps)
		}
	}
}

// TestAStoreWithoutAQuorumTellsWhichHostsItLacks: how many of which hosts it needs, which of them are dead, what to do, and
// what goes on meanwhile.
func TestAStoreWithoutAQuorumTellsWhichHostsItLacks(t *testing.T) {
	serving := func(alive, dead string) (all []candidate) {
		for _, name := range strings.Fields(dead) {
			all = append(all, candidate{name: name, serves: true})
		}
		for _, name := range strings.Fields(alive) {
			all = append(all, candidate{name: name, serves: true, alive: true})
		}
		return all
	}
	lost := []string{"if they are lost for good", "shoal store restore", "shoal server recover"}
	reached := []string{"enough are alive", "systemctl status shoal", "TCP 2379 and 2380"}
	for name, test := range map[string]struct {
		health storeHealth
		says   []string
		not    []string
	}{
		"two of three are dead":      {storeHealth{servers: serving("b", "c a")}, append(lost, "needs 2 of the hosts that serve it (a, b, c)", "these are dead: a, c."), reached},
		"the only one is dead":       {storeHealth{servers: serving("", "a")}, append(lost, "needs 1 of the hosts that serve it (a)", "these are dead: a."), reached},
		"one of two is dead":         {storeHealth{servers: serving("a", "b")}, append(lost, "needs 2 of the hosts that serve it (a, b)", "these are dead: b."), reached},
		"three of five are dead":     {storeHealth{servers: serving("a e", "b c d")}, append(lost, "needs 3 of the hosts that serve it (a, b, c, d, e)", "these are dead: b, c, d."), reached},
		"one of three is dead":       {storeHealth{servers: serving("a c", "b")}, append(reached, "needs 2 of the hosts that serve it (a, b, c)"), lost},
		"all are alive":              {storeHealth{servers: serving("a b c", "")}, append(reached, "needs 2 of the hosts that serve it (a, b, c)"), lost},
		"nobody knows who serves it": {storeHealth{}, []string{"see by shoal nodes", "start them", "of three, two have to be alive"}, append(lost, "needs")},
		"it is one of the user's":    {storeHealth{external: true}, []string{"it is one of yours: start it", "--etcd"}, append(lost, "shoal nodes", "needs")},
	} {
		test.health.away, test.health.free = true, lowDisk
		ps := test.health.problems("n")
		if len(ps) != 1 || ps[0].Code != model.StoreUnreachable || ps[0].Object != "etcd" || ps[0].Node != "n" {
			t.Errorf("%s: %+v", name, ps)
			continue
		}
		for _, part := range append(test.says, "all that is known stays in use", "new VIPs, newly published ports and hosts that join wait", "shoal status has the error") {
			if !strings.Contains(ps[0].Reason, part) {
				t.Errorf("%s: it does not say %q: %s", name, part, ps[0].Reason)
			}
		}
		for _, part := range test.not {
			if strings.Contains(ps[0].Reason, part) {
				t.Errorf("%s: it says %q: %s", name, part, ps[0].Reason)
			}
		}
	}
}
