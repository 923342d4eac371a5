package rules

import "testing"

func TestBriefNamesTheFirst(t *testing.T) {
	for want, wrong := range map[string][]string{
		"":                 nil,
		"a; b; c":          {"a", "b", "c"},
		"a; b; and 2 more": {"a", "b", "c", "d"},
	} {
		if got := Brief(wrong); got != want {
			t.Errorf("%q: %q, want %q", wrong, got, want)
		}
	}
}
