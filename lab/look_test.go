package lab

import (
	"slices"
	"testing"
)

func TestRealServers(t *testing.T) {
	const table = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
FWM  1392508929 rr
  -> 10.244.1.2:0                 Masq    1      0          12
  -> 10.244.0.2:0                 Masq    100    0          0
  -> 10.244.2.2:0                 Masq    0      1          0
FWM  1392508930 rr
  -> 10.244.0.2:0                 Masq    1      0          0
FWM  1392508931 rr
  -> 10.244.1.1:53                Masq    1      0          3
`
	if got, want := RealServers(table), []string{"10.244.0.2", "10.244.1.2"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := RealServers(""); len(got) > 0 {
		t.Errorf("of an empty table: %v", got)
	}
}
