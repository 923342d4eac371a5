package firewall

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

func testHost() *Host {
	return &Host{
		Link: "eth0", Self: netip.MustParseAddr("192.168.1.11"), Pool: netip.MustParsePrefix("10.96.0.0/16"), DNS: netip.MustParseAddr("10.96.0.10"),
		Own: netip.MustParsePrefix("10.244.1.0/24"), Server: netip.MustParseAddr("10.244.1.1"),
		Bridges: []Bridge{{Device: "shoal0", Net: netip.MustParsePrefix("10.244.1.0/24"), Mesh: true}, {Device: "docker0", Net: netip.MustParsePrefix("172.17.0.0/16")}},
		Peers:   []Peer{{Name: "b", Addr: netip.MustParseAddr("192.168.1.12"), Net: netip.MustParsePrefix("10.244.2.0/24"), Device: "eth0"}},
		TCP:     []uint16{7946}, UDP: []uint16{7946},
	}
}

// table is one with these base chains.
func table(name string, chains ...*Chain) *Table {
	t := &Table{Family: "inet", Name: name, Chains: map[string]*Chain{}, Sets: map[string]*Set{}}
	for _, c := range chains {
		t.Chains[c.Name] = c
	}
	return t
}

func verdict(kind expr.VerdictKind, chain string) *expr.Verdict {
	return &expr.Verdict{Kind: kind, Chain: chain}
}

func TestAFindingSaysWhatToAdd(t *testing.T) {
	input := &Chain{Name: "input", Hook: "input", Drops: true}
	forward := &Chain{Name: "forward", Hook: "forward", Rules: []Rule{{&expr.Reject{}}}}
	got := Find([]*Table{table("filter", input, forward), {Family: "ip", Name: engine, Chains: map[string]*Chain{"filter-FORWARD": {Name: "filter-FORWARD", Hook: "forward", Drops: true}}}}, testHost().Flows())
	want := []Finding{
		{
			Family: "inet", Table: "filter", Chain: "forward", By: []string{"rule 1 of chain forward"},
			What: []string{"containers of other hosts", "published ports"},
			Add: []string{
				`nft insert rule inet filter forward iifname "eth0" oifname "shoal0" accept`,
				`nft insert rule inet filter forward iifname "shoal0" oifname "eth0" accept`,
				`nft insert rule inet filter forward oifname "shoal0" accept`,
			},
		},
		{
			Family: "inet", Table: "filter", Chain: "input", By: []string{"its policy"},
			What: []string{"VIPs for containers", "names for containers", "names for other hosts' containers", "the agents of other hosts"},
			Add: []string{
				`nft insert rule inet filter input iifname { "docker0", "shoal0" } ip daddr 10.96.0.0/16 accept`,
				`nft insert rule inet filter input ip saddr 192.168.1.12 tcp dport 7946 accept`,
				`nft insert rule inet filter input ip saddr 192.168.1.12 udp dport 7946 accept`,
				`nft insert rule inet filter input ip saddr { 10.244.2.0/24, 192.168.1.12 } ip daddr 10.244.1.1 udp dport 53 accept`,
			},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestAddressesOfAnotherFamilyAreNotKnown(t *testing.T) {
	p := Packet{Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("192.168.1.12"), Protocol: unix.IPPROTO_TCP}
	if v := p.payload(expr.PayloadBaseNetworkHeader, 12, 4); v.known {
		t.Errorf("the source of a packet by IPv6 is %v", v)
	}
}

func TestWhatIsNotCertainIsNotTold(t *testing.T) {
	fromBridge := []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("shoal0\x00")}}
	device := func(index byte) Rule {
		return Rule{&expr.Meta{Key: expr.MetaKeyIIF, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{index, 0, 0, 0}}}
	}
	drop, accept := verdict(expr.VerdictDrop, ""), verdict(expr.VerdictAccept, "")
	odd := Rule{nil, accept} // it may accept anything
	for name, tc := range map[string]struct {
		rules  []Rule
		policy bool
		drops  bool
	}{
		"nothing":                                 {nil, false, false},
		"a policy":                                {nil, true, true},
		"a policy after what may accept":          {[]Rule{odd}, true, false},
		"a drop after what may accept":            {[]Rule{odd, {drop}}, false, false},
		"what may drop":                           {[]Rule{{nil, drop}}, false, false},
		"what may drop, and then a policy":        {[]Rule{{nil, drop}}, true, true},
		"a drop of the device":                    {[]Rule{append(Rule(fromBridge), drop)}, false, true},
		"an accept of the device":                 {[]Rule{append(Rule(fromBridge), accept)}, true, false},
		"an accept of another device's number":    {[]Rule{append(device(1), accept)}, true, true},
		"an accept of the device's number":        {[]Rule{append(device(7), accept)}, true, false},
		"a drop of the device's number":           {[]Rule{append(device(7), drop)}, false, true},
		"a jump to a chain that accepts":          {[]Rule{{verdict(expr.VerdictJump, "accepts")}}, true, false},
		"a jump to a chain that drops":            {[]Rule{{verdict(expr.VerdictJump, "drops")}}, false, true},
		"a jump that may accept":                  {[]Rule{{nil, verdict(expr.VerdictJump, "accepts")}}, true, false},
		"a jump that comes back":                  {[]Rule{{verdict(expr.VerdictJump, "returns")}, {drop}}, false, true},
		"a goto comes back to the policy":         {[]Rule{{verdict(expr.VerdictGoto, "returns")}, {accept}}, true, true},
		"a goto comes back to no drop":            {[]Rule{{verdict(expr.VerdictGoto, "returns")}, {drop}}, false, false},
		"a return ends the chain":                 {[]Rule{{verdict(expr.VerdictReturn, "")}, {drop}}, false, false},
		"a chain that calls itself ends":          {[]Rule{{verdict(expr.VerdictJump, "loops")}}, true, false},
		"a map that is not known":                 {[]Rule{{&expr.Lookup{SetName: "none", DestRegister: 0, IsDestRegSet: true}}}, true, false},
		"established connections do not count":    {[]Rule{{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{6, 0, 0, 0}, Xor: []byte{0, 0, 0, 0}}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0, 0, 0}}, accept}}, true, true},
		"a mark may be there: accepted by a mark": {[]Rule{{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1, 0, 0, 0}}, accept}}, true, false},
	} {
		base := &Chain{Name: "input", Hook: "input", Drops: tc.policy, Rules: tc.rules}
		tab := table("t", base,
			&Chain{Name: "accepts", Rules: []Rule{{accept}}}, &Chain{Name: "drops", Rules: []Rule{{drop}}}, &Chain{Name: "returns", Rules: []Rule{{verdict(expr.VerdictReturn, "")}, {accept}}},
			&Chain{Name: "loops", Rules: []Rule{{verdict(expr.VerdictJump, "loops")}}})
		host := testHost()
		host.Indexes = map[string]uint32{"shoal0": 7, "docker0": 7} // the first flow is of one of them
		flow := host.Flows()[0]
		if by := tab.walk(base, &flow.Packet); (by != "") != tc.drops {
			t.Errorf("%s: dropped by %q, want %t", name, by, tc.drops)
		}
	}
}

// In firewalld's table no rule of anybody else's lasts: its own commands are
// told.
func TestFirewalldIsToldByItsOwnCommands(t *testing.T) {
	input := &Chain{Name: "filter_INPUT", Hook: "input", Rules: []Rule{{verdict(expr.VerdictDrop, "")}}}
	got := Find([]*Table{table(firewalld, input)}, testHost().Flows())
	if len(got) != 1 {
		t.Fatalf("found %v", got)
	}
	want := []string{
		`firewall-cmd --permanent --add-rich-rule='rule family="ipv4" source address="10.244.2.0/24" service name="dns" accept'`,
		`firewall-cmd --permanent --add-rich-rule='rule family="ipv4" source address="192.168.1.12" port port="7946" protocol="tcp" accept'`,
		`firewall-cmd --permanent --add-rich-rule='rule family="ipv4" source address="192.168.1.12" port port="7946" protocol="udp" accept'`,
		`firewall-cmd --permanent --add-rich-rule='rule family="ipv4" source address="192.168.1.12" service name="dns" accept'`,
		`firewall-cmd --permanent --zone=docker --change-interface=docker0`,
		`firewall-cmd --permanent --zone=docker --change-interface=shoal0`,
	}
	if d := cmp.Diff(want, got[0].Add); d != "" {
		t.Error(d)
	}
}

func TestTheEngineDropsWhatGoesToItsOtherNetworks(t *testing.T) {
	other := []Bridge{{Device: "docker0", Net: netip.MustParsePrefix("172.17.0.0/16")}}
	forward := func(rules ...Rule) []*Table {
		return []*Table{{Family: "ip", Name: engine, Chains: map[string]*Chain{"filter-FORWARD": {Name: "filter-FORWARD", Hook: "forward", Rules: rules}}}}
	}
	marked := Rule{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 0, 128, 0}}, verdict(expr.VerdictAccept, "")}
	drop := Rule{verdict(expr.VerdictDrop, "")}
	for name, tc := range map[string]struct {
		tables []*Table
		want   int
	}{
		"no table":                   {nil, 0},
		"a table that drops":         {forward(drop), 1},
		"a mark that it accepts":     {forward(marked, drop), 0},
		"a table that accepts":       {forward(Rule{verdict(expr.VerdictAccept, "")}, drop), 0},
		"the table of somebody else": {[]*Table{table("own", &Chain{Name: "f", Hook: "forward", Drops: true})}, 0},
	} {
		if got := EngineDrops(tc.tables, testHost(), other); len(got) != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
