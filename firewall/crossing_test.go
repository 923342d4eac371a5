package firewall

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

func TestAPacketOfAConnectionIsLedThroughEveryHook(t *testing.T) {
	port := func(n uint16) Rule {
		return Rule{
			&expr.Payload{OperationType: expr.PayloadLoad, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: unix.NFT_REG_1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: binary.BigEndian.AppendUint16(nil, n)},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}
	}
	table := &Table{Family: "inet", Name: "others", Chains: map[string]*Chain{
		"early": {Name: "early", Hook: "prerouting", Priority: -300, Rules: []Rule{port(8080)}},
		"late":  {Name: "late", Hook: "prerouting", Priority: 0, Rules: []Rule{port(8080), port(8000)}},
		"out":   {Name: "out", Hook: "output", Drops: true},
	}}
	packet := func(port uint16) Packet {
		return Packet{Src: netip.MustParseAddr("192.0.2.7"), Dst: netip.MustParseAddr("10.244.1.5"), Protocol: unix.IPPROTO_TCP, Port: port}
	}
	for name, test := range map[string]struct {
		crossing Crossing
		chain    string
	}{
		"before its destination is changed": {Crossing{"prerouting", packet(8080), BeforeDNAT}, "early"},
		"after that":                        {Crossing{"prerouting", packet(8000), AfterDNAT}, "late"},
		"another port":                      {Crossing{"prerouting", packet(80), Always}, ""},
		"another hook":                      {Crossing{"forward", packet(8080), Always}, ""},
		"by a policy":                       {Crossing{"output", packet(80), Always}, "out"},
	} {
		got := Dropped([]*Table{table}, []Crossing{test.crossing})
		switch {
		case test.chain == "" && len(got) > 0, test.chain != "" && len(got) != 1:
			t.Errorf("%s: %v", name, got)
		case len(got) == 1 && (got[0].Chain != test.chain || !strings.Contains(got[0].Remedy(), "nft insert rule inet others "+test.chain+" ip daddr 10.244.1.5 tcp dport")):
			t.Errorf("%s: %s; %s", name, got[0].String(), got[0].Remedy())
		}
	}
}
