package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"shoal/diagnose"
	"shoal/lab/wait"
	"shoal/model"
)

// TestAHostHasMovedOnceItsOtherAddressIsThereToStay: each look is "here", "gone" while the host has no address to be
// reached by, or the one it has: with "*" that of its default route.
func TestAHostHasMovedOnceItsOtherAddressIsThereToStay(t *testing.T) {
	for name, tc := range map[string]struct {
		set, byDefault bool
		looks          string
		moved          bool // with the last look, not before
	}{
		"it stays":                                {byDefault: true, looks: "here here here here"},
		"DHCP gives another":                      {byDefault: true, looks: "here gone gone 192.0.2.2* 192.0.2.2* 192.0.2.2*", moved: true},
		"it has none for long":                    {byDefault: true, looks: "here gone gone gone gone gone"},
		"it has its own back":                     {byDefault: true, looks: "192.0.2.2* 192.0.2.2* here 192.0.2.2* 192.0.2.2*"},
		"one on the way to another":               {byDefault: true, looks: "192.0.2.2* 192.0.2.2* 192.0.2.3* 192.0.2.3* 192.0.2.3*", moved: true},
		"its default route is late":               {byDefault: true, looks: "10.1.1.1 10.1.1.1 10.1.1.1 10.1.1.1 192.0.2.2* 192.0.2.2* 192.0.2.2*", moved: true},
		"it has had no default route":             {looks: "gone 10.1.1.1 10.1.1.1 10.1.1.1", moved: true},
		"--advertise says which, so no other one": {set: true, looks: "192.0.2.2* 192.0.2.2* 192.0.2.2* 192.0.2.2*"},
	} {
		w := &addrWatch{own: netip.MustParseAddr("192.0.2.1"), set: tc.set, byDefault: tc.byDefault}
		looks := strings.Fields(tc.looks)
		for i, l := range looks {
			var other netip.Addr
			addr, byDefault := strings.CutSuffix(l, "*")
			if l != "here" && l != "gone" {
				other = netip.MustParseAddr(addr)
			}
			if got, want := w.look(l == "here", other, byDefault), tc.moved && i == len(looks)-1; got != want {
				t.Errorf("%s: after look %d, %s, moved is %t", name, i+1, l, got)
			}
		}
	}
}

func TestAnAddressThatIsMissingIsAProblem(t *testing.T) {
	for _, set := range []bool{true, false} {
		// As if no address but one that waits for its default route would do.
		w := &addrWatch{own: netip.MustParseAddr("192.0.2.1"), set: set, byDefault: true}
		ps := diagnose.NewProblems("a", slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.watch(ctx, "a", ps) }()
		wait.For(t, 10*time.Second, "a problem", func() bool { return len(ps.List()) > 0 })
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		all := ps.List()
		if len(all) != 1 || all[0].Code != model.AddressMissing || all[0].Object != "a" || strings.Contains(all[0].Reason, "--advertise") != set {
			t.Errorf("set: %t: %+v", set, all)
		}
	}
}

func TestTheHostsAddressIsOneOfItsOwn(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1": true, "192.0.2.1": false} {
		if got, err := hasAddr(netip.MustParseAddr(addr)); got != want || err != nil {
			t.Errorf("%s: %t, %v", addr, got, err)
		}
	}
}
