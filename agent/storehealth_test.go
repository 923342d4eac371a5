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
