package model

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"testing"
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

// TestCodesAreKebabCaseAndDiffer reads the constants in the source: nothing else lists them.
func TestCodesAreKebabCaseAndDiffer(t *testing.T) {
	source, err := os.ReadFile("problem.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\t\w+\s+Code = "(.*)" +// `).FindAllSubmatch(source, -1) {
		code := string(m[1])
		if seen[code] || !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(code) {
			t.Errorf("%q is there twice, or not in kebab case", code)
		}
		seen[code] = true
	}
	if len(seen) < 20 {
		t.Errorf("only %d codes were found", len(seen))
	}
}
