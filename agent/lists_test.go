package agent

import (
	"maps"
	"testing"
	"testing/synctest"
	"time"
)

// TestAHostThatComesBackIsDeadUntilItIsKnownWhatItHas, or for two seconds.
func TestAHostThatComesBackIsDeadUntilItIsKnownWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLists(t.Context(), nil)
		step := func(what string, alive map[string]bool, want map[string]bool, ask ...string) {
			t.Helper()
			got := maps.Clone(alive)
			asked := f.admit(got)
			if !maps.Equal(got, want) || len(asked) != len(ask) || len(ask) > 0 && !asked[ask[0]] {
				t.Errorf("%s: %v counts as %v, asked are %v; want %v, asked %v", what, alive, got, asked, want, ask)
			}
		}
		up, down := map[string]bool{"a": true, "b": true}, map[string]bool{"a": true, "b": false}
		step("at the start", up, up)
		step("b dies", down, down)
		step("b comes back", up, down, "b")
		step("and is there", up, down)
		f.known("b")
		<-f.returns
		step("once it is known what it has", up, up)
		f.known("a")
		step("what was known of a host that was not away", up, up)

		step("b dies again", down, down)
		f.known("b") // an answer that was on its way
		step("and is back", up, down, "b")
		start := time.Now()
		<-f.returns
		if took := time.Since(start); took != returnTime {
			t.Errorf("a host that does not answer counts as dead for %v more", took)
		}
		step("though it does not answer", up, up)
		step("it dies", down, down)
		step("it is back", up, down, "b")
		step("and gone again", down, down)
		step("and back again", up, down, "b")
	})
}
