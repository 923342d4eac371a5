package model

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"shoal/docs"
)

func TestAnErrorKeepsItsCodeWhereItIsWrapped(t *testing.T) {
	plain := errors.New("no")
	for name, test := range map[string]struct {
		err  error
		want Code
	}{
		"with a code":        {PortInUse.Errorf("port %d", 80), PortInUse},
		"given one":          {RouteMissing.Of(plain), RouteMissing},
		"wrapped":            {fmt.Errorf("publish: %w", PortInUse.Errorf("port %d", 80)), PortInUse},
		"given another":      {RouteMissing.Of(PortInUse.Errorf("port %d", 80)), RouteMissing},
		"among others":       {errors.Join(plain, VIPFixed.Errorf("has one")), VIPFixed},
		"a port of another":  {fmt.Errorf("claim: %w", &PortTakenError{}), PortTaken},
		"a VIP of another":   {fmt.Errorf("claim: %w", &TakenError{}), VIPTaken},
		"the store is away":  {fmt.Errorf("claim: %w", ErrAway), StoreUnreachable},
		"without a code":     {plain, Unclassified},
		"no error, no code":  {nil, Unclassified},
		"a code of no error": {RouteMissing.Of(nil), Unclassified},
	} {
		if got := CodeOf(test.err, Unclassified); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
	if err := RouteMissing.Of(plain); err.Error() != "no" || !errors.Is(err, plain) {
		t.Errorf("with a code it is %v", err)
	}
}

// codes are all that there are: nothing lists them but the source.
func codes(t *testing.T) (all []string) {
	t.Helper()
	source, err := os.ReadFile("problem.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\t\w+\s+Code = "(.*)" +// `).FindAllSubmatch(source, -1) {
		all = append(all, string(m[1]))
	}
	if len(all) < 20 {
		t.Fatalf("only %d codes were found", len(all))
	}
	return all
}

func TestCodesAreKebabCaseAndDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, code := range codes(t) {
		if seen[code] || !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(code) {
			t.Errorf("%q is there twice, or not in kebab case", code)
		}
		seen[code] = true
	}
}

// TestEachCodeHasItsSection: in docs/troubleshooting.md, with how to look and what to do; and there is none about a code
// that does not exist.
func TestEachCodeHasItsSection(t *testing.T) {
	all := codes(t)
	for _, code := range all {
		text, ok := docs.Problem(code)
		if !ok || !strings.Contains(text, "\n\nLook: ") || !strings.Contains(text, "\n\nDo: ") {
			t.Errorf("%s: docs/troubleshooting.md has no section that says what it is, how to look and what to do: %q", code, text)
		}
	}
	for _, code := range docs.Codes() {
		if !slices.Contains(all, code) {
			t.Errorf("docs/troubleshooting.md tells of %q, which is no code", code)
		}
	}
}
