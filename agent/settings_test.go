package agent

import (
	"net/netip"
	"testing"

	"shoal/api"
)

// TestTheAddressThatWasFoundIsASetting: also where none was set.
func TestTheAddressThatWasFoundIsASetting(t *testing.T) {
	a := &Agent{config: Config{
		Advertise: netip.MustParseAddr("192.0.2.1"),
		Effective: []api.Setting{{Name: "advertise", Source: "default"}, {Name: "zone", Value: "a"}},
	}}
	got := a.settings()
	if got[0].Value != "192.0.2.1" || got[1].Value != "a" || a.config.Effective[0].Value != "" {
		t.Errorf("%+v, and as read %+v", got, a.config.Effective)
	}
}
