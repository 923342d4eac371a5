//go:build e2e

package nft

import (
	"encoding/json"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"shoal/lb"
	"shoal/model"
)

// ownNamespace puts the test into a network namespace of its own, for good.
func ownNamespace(t *testing.T) *conn {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	c, err := open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// frame makes the table with its sets and rules.
func frame(t *testing.T, w *surroundings) {
	t.Helper()
	l, _, err := library()
	if err != nil {
		t.Fatal(err)
	}
	defer l.CloseLasting()
	s := structure{sets: map[string]*nftables.Set{}, chains: map[string]*builtChain{}}
	b := builder{lib: l}
	if err := b.frame(&s); err != nil {
		t.Fatal(err)
	}
	b.put(&s, w.chains())
	if err := b.flush(); err != nil {
		t.Fatal(err)
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// some is a host with everything that has entries.
var some = &surroundings{
	zoned: true,
	opts:  lb.PlaneOptions{Pool: prefix("10.96.0.0/16"), DNS: netip.MustParseAddr("10.96.0.10"), DNSPeers: netip.MustParseAddr("10.96.0.11")},
	base: &lb.Base{
		Self: model.Node{Name: "a", Subnet: prefix("10.244.1.0/24")}, Alone: true,
		Networks: []model.Network{{Bridge: "br0", Subnets: []netip.Prefix{prefix("10.244.1.0/24"), prefix("10.244.1.0/25")}}, {Bridge: "br1", Subnets: []netip.Prefix{prefix("172.18.0.0/16")}}},
		Inside:   []netip.Prefix{prefix("10.244.0.0/16"), prefix("192.168.1.1/32"), prefix("192.168.1.2/32"), prefix("255.255.255.0/24")},
		Cluster:  []netip.Prefix{prefix("10.244.1.0/24")},
		Peers:    []lb.Peer{{Name: "b", Number: 2, Addr: netip.MustParseAddr("192.168.1.2"), MACs: []model.MAC{{2, 0, 0, 0, 0, 1}}}},
		DNSPorts: map[netip.Addr]uint16{netip.MustParseAddr("10.96.0.10"): 10053, netip.MustParseAddr("10.244.1.1"): 10053},
	},
	between: lb.Between{
		Own: prefix("10.244.1.0/24"), Nets: []netip.Prefix{prefix("10.244.2.0/24")}, Hosts: []netip.Addr{netip.MustParseAddr("192.168.1.2")}, HostAddrs: []netip.Addr{netip.MustParseAddr("192.168.1.2")},
		Links:   []lb.Link{{Net: prefix("10.244.2.0/24"), Device: "eth0"}, {Net: prefix("192.168.1.2/32"), Device: "eth0"}, {Net: prefix("10.244.1.0/24"), Device: "br0"}},
		Tunnels: []lb.Tunnel{{Protocol: 17, Port: 4789}, {Protocol: 4}},
	},
}

func TestEntriesAreReadAsTheyWereWritten(t *testing.T) {
	c := ownNamespace(t)
	frame(t, some)
	want := some.entries()
	f := &frontend{Frontend: &lb.Frontend{Key: lb.Key{Protocol: model.TCP, Port: 80}, On: []netip.Addr{netip.MustParseAddr("192.168.1.1")}},
		backends: []lb.Backend{{Addr: netip.MustParseAddrPort("10.244.1.2:8080"), Weight: 3, Local: true}}, slots: []int{0}}
	own, shared := f.entriesOf(7)
	want.merge(own)
	want.merge(shared)
	want.merge(endpointEntries(netip.MustParseAddr("10.244.1.2"), lb.Endpoint{Local: true}))
	for _, s := range sets {
		changes := plan{}
		changes.diff(entries{}, entries{s: want[s]})
		for _, steps := range changes.batches(nil) {
			if err := c.write(steps, 0); err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
		}
		got := map[string]string{}
		if err := c.list(s, func(e entry) { got[e.key] = e.value }); err != nil {
			t.Errorf("list %s: %v", s.name, err)
		}
		if s == affinity {
			continue
		}
		if d := cmp.Diff(want[s], got); d != "" && len(want[s])+len(got) > 0 {
			t.Errorf("%s: %s", s.name, d)
		}
	}
}

func TestThisKernelHasAllThatIsNeeded(t *testing.T) {
	if err := Available(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whoever looks with nft(8) must see the table, not a crash of that program,
// though it has no words for some of the rules.
func TestNftPrintsEveryChain(t *testing.T) {
	ownNamespace(t)
	frame(t, some)
	l, _, err := library()
	if err != nil {
		t.Fatal(err)
	}
	defer l.CloseLasting()
	b := builder{lib: l}
	chains := some.chains()
	for _, x := range everyBalancer {
		chains = append(chains, chain{name: x.chain(), rules: x.rules()})
	}
	b.put(&structure{sets: map[string]*nftables.Set{}, chains: map[string]*builtChain{}}, chains[len(chains)-len(everyBalancer):])
	if err := b.flush(); err != nil {
		t.Fatal(err)
	}
	for _, c := range chains {
		if out, err := exec.Command("nft", "list", "chain", "ip", tableName, c.name).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", c.name, err, out)
		} else if testing.Verbose() {
			t.Logf("%s", out)
		}
	}
	if out, err := exec.Command("nft", "-j", "-n", "list", "table", "ip", tableName).Output(); err != nil || !json.Valid(out) {
		t.Errorf("as JSON: %v: %.1000s", err, out)
	}
}

// TestATableOfAnotherVersionStaysUntilTheFirstPass: it carries connections, and nothing takes its place before.
func TestATableOfAnotherVersionStaysUntilTheFirstPass(t *testing.T) {
	ownNamespace(t)
	for _, command := range []string{"add table ip shoal", "add set ip shoal services { type ipv4_addr; }"} {
		if out, err := exec.Command("nft", command).CombinedOutput(); err != nil {
			t.Fatalf("nft %s: %v: %s", command, err, out)
		}
	}
	former := func() bool {
		out, _ := exec.Command("nft", "list", "set", "ip", "shoal", "services").CombinedOutput()
		return strings.Contains(string(out), "type ipv4_addr\n")
	}
	p, err := New(lb.PlaneOptions{Pool: prefix("10.96.0.0/16"), StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Between(t.Context(), some.between); err != nil || !former() {
		t.Errorf("what passes between hosts: %v; the former table is there: %v", err, former())
	}
	if p.Redirects(&lb.Frontend{Key: lb.Key{Protocol: model.TCP, Port: 80}}) {
		t.Error("a table that is not read redirects a port")
	}
	if r := p.Reconcile(t.Context(), lb.Delta{Base: some.base}, true); len(r.Failures) > 0 || former() {
		t.Errorf("the first pass: %+v; the former table is there: %v", r, former())
	}
}
