package rules

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrintedRuleIsReadAsItsArguments(t *testing.T) {
	for printed, want := range map[string][]string{
		"":                                 nil,
		"-p tcp -j ACCEPT":                 {"-p", "tcp", "-j", "ACCEPT"},
		`--comment "a b" -j X`:             {"--comment", "a b", "-j", "X"},
		`--comment "say \"a\\b\"" ! -i lo`: {"--comment", `say "a\b"`, "!", "-i", "lo"},
		`--log-prefix "" -j LOG`:           {"--log-prefix", "", "-j", "LOG"},
	} {
		if d := cmp.Diff(want, words(printed)); d != "" {
			t.Errorf("%s: %s", printed, d)
		}
	}
}

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
