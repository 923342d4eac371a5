package agent

import (
	"errors"
	"testing"

	"shoal/api"
	"shoal/diagnose"
	"shoal/model"
)

// TestWhatIsToBeRemovedAndIsNotThereIsNotFound: the command line tells it as a wrong name.
func TestWhatIsToBeRemovedAndIsNotThereIsNotFound(t *testing.T) {
	h := newMember(t, 12)
	h.start()
	a := &Agent{catalog: h.catalog, inspect: &diagnose.Inspector{
		Zone: "mesh.internal", Snapshot: func() (*model.Snapshot, error) { return h.catalog.Snapshot(), nil },
	}}
	for _, name := range []string{"wep", "shop/wep", "wep.shop", "Not_A_Label", "a/b/c"} {
		if id, err := a.removeService(t.Context(), name); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("service %s: %s, %v", name, id, err)
		}
	}
	if err := h.m.removeToken(t.Context(), "wrong"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("token: %v", err)
	}
}
