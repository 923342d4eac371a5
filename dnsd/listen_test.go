package dnsd

import (
	"net/netip"
	"strings"
	"testing"
)

func TestAnAddressAddedLaterIsAnsweredToo(t *testing.T) {
	s := started(t, options())
	if err := s.Listen(t.Context(), free(t, ip("127.0.0.9"))); err != nil {
		t.Fatal(err)
	}
	at := s.Addrs()[1]
	for _, args := range [][]string{{"+notcp"}, {"+tcp"}} {
		if out := askAt(t, at, "dig", append(args, "+short", "web.mesh.internal")...); strings.TrimSpace(out) != "10.96.1.1" {
			t.Errorf("%v: %q", args, out)
		}
	}
	if !s.isOwn(at) {
		t.Error("the address would be asked as an upstream")
	}
	if err := s.Listen(t.Context(), netip.MustParseAddrPort("192.0.2.255:0")); err != nil {
		t.Errorf("an address that this host does not have: %v", err)
	}
	s.Shutdown()
	if out := askAt(t, at, "dig", "+tcp", "+short", "web.mesh.internal"); strings.Contains(out, "10.96.1.1") {
		t.Error("it answers after Shutdown")
	}
}
