package diagnose

import (
	"strings"
	"testing"

	"shoal/model"
)

func TestSettingsThatDifferAreAProblemOfWhoHasThemOtherwise(t *testing.T) {
	usual := model.NewSettings(map[string]string{"zone": "mesh.internal", "pool": "10.96.0.0/16"})
	other := model.NewSettings(map[string]string{"zone": "other.internal", "pool": "10.96.0.0/16"})
	node := func(name string, s model.Settings) model.Node {
		return model.Node{Name: name, Settings: s, Alive: true}
	}
	dead := node("x", other)
	dead.Alive = false
	for name, test := range map[string]struct {
		nodes []model.Node
		node  string // that has the problem; "": none
		says  string
	}{
		"alike":             {[]model.Node{node("a", usual), node("b", usual)}, "", ""},
		"one does not tell": {[]model.Node{node("a", usual), node("b", "")}, "", ""},
		"one is dead":       {[]model.Node{node("a", usual), dead}, "", ""},
		"the first is in the minority": {[]model.Node{node("a", other), node("b", usual), node("c", usual)},
			"a", "it is other.internal here, and mesh.internal on b, c"},
		"two": {[]model.Node{node("a", usual), node("b", other)}, "b", "it is other.internal here, and mesh.internal on a"},
		"many": {[]model.Node{node("a", usual), node("b", usual), node("c", usual), node("d", usual), node("e", usual), node("f", other)},
			"f", "on a, b, c and 2 more"},
	} {
		ps := SettingsProblems(test.nodes)
		if test.node == "" {
			if len(ps) > 0 {
				t.Errorf("%s: %+v", name, ps)
			}
			continue
		}
		if len(ps) != 1 || ps[0].Node != test.node || ps[0].Object != "--zone" || ps[0].Code != model.SettingsDiffer || !strings.Contains(ps[0].Reason, test.says) {
			t.Errorf("%s: %+v", name, ps)
		}
	}
}
