package ipvs

import (
	"maps"
	"net/netip"
	"strings"
	"testing"
)

func TestConnectionsThatOneEndHasClosedAreCounted(t *testing.T) {
	got, err := readClosing(strings.NewReader(`Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP C0A84D01 C276 0A600001 0050 0AF40103 1F40 CLOSE_WAIT       59
TCP C0A84D01 C277 0A600001 0050 0AF40103 1F40 FIN_WAIT        119
TCP C0A84D01 C278 0A600001 0050 0AF40104 1F40 FIN_WAIT        119
TCP C0A84D01 C279 0A600001 0050 0AF40103 1F40 ESTABLISHED     899
TCP C0A84D01 C27A 0A600001 0050 0AF40103 1F40 TIME_WAIT       119
UDP C0A84D01 C27B 0A600001 0035 0AF40103 0035 UDP             299
TCP [2001:0db8:0000:0000:0000:0000:0000:0001] C27C [fd00::1] 0050 [2001:0db8:0000:0000:0000:0000:0000:0002] 1F40 FIN_WAIT 119
TCP short
`))
	want := map[netip.AddrPort]int{netip.MustParseAddrPort("10.244.1.3:8000"): 2, netip.MustParseAddrPort("10.244.1.4:8000"): 1}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}
