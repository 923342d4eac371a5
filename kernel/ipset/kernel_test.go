//go:build e2e

package ipset

import (
	"maps"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// ownNamespace puts the test into a network namespace of its own, for good.
func ownNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

func sh(t *testing.T, commands string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", commands).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", commands, err, out)
	}
	return string(out)
}

// filled makes a set with entries.
func filled(t *testing.T, s Set, es map[Entry]uint32) {
	t.Helper()
	if err := Create(s); err != nil {
		t.Fatal(err)
	}
	for e, err := range Put(s, es) {
		t.Errorf("%s: %v", e, err)
	}
}

func TestSetsAreCountedAndRead(t *testing.T) {
	ownNamespace(t)
	if sizes, err := Sizes(); err != nil || len(sizes) > 0 {
		t.Errorf("sizes of no sets: %v, %v", sizes, err)
	}
	many := map[Entry]uint32{}
	for i := range 5000 { // more than a message holds
		many[Addr(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))] = uint32(i + 1)
	}
	macs := map[Entry]uint32{Ether([6]byte{2, 0, 0, 0, 0, 1}): 7, Ether([6]byte{2, 0, 0, 0, 0, 2}): 8}
	filled(t, Set{Name: "MANY", Type: "hash:ip", Mark: true}, many)
	filled(t, Set{Name: "MACS", Type: "hash:mac", Mark: true, Mask: 0xff00ffff}, macs)
	filled(t, Set{Name: "NONE", Type: "hash:net,iface"}, nil)

	want := map[string]int{"MANY": 5000, "MACS": 2, "NONE": 0}
	if sizes, err := Sizes(); err != nil || !maps.Equal(sizes, want) {
		t.Errorf("sizes %v, want %v; %v", sizes, want, err)
	}
	names, err := Names()
	for _, n := range names {
		if _, has := want[n]; !has {
			t.Errorf("name %q", n)
		}
	}
	if err != nil || len(names) != len(want) {
		t.Errorf("names %v; %v", names, err)
	}
	for name, want := range map[string]map[Entry]uint32{"MANY": many, "MACS": macs, "NONE": {}} {
		if got, err := List(name); err != nil || !maps.Equal(got, want) {
			t.Errorf("set %s: %d entries, want %d; %v", name, len(got), len(want), err)
		}
	}
	if out := sh(t, "ipset save MACS"); !strings.Contains(out, "add MACS 02:00:00:00:00:01 skbmark 0x7/0xff00ffff") {
		t.Errorf("ipset says: %s", out)
	}
	for e, err := range Remove(Set{Name: "MACS", Type: "hash:mac"}, map[Entry]uint32{Ether([6]byte{2, 0, 0, 0, 0, 1}): 0, Ether([6]byte{2, 0, 0, 0, 0, 9}): 0}) {
		t.Errorf("%s: %v", e, err)
	}
	if sizes, _ := Sizes(); sizes["MACS"] != 1 {
		t.Errorf("after one was taken out: %v", sizes)
	}
}

// TestAMarkLeavesTheBitsOutsideItsMask sends packets that have a mark through rules that mark by sets: by the sender's Ethernet
// address, and by an IP address.
func TestAMarkLeavesTheBitsOutsideItsMask(t *testing.T) {
	ownNamespace(t)
	sh(t, `ip link set lo up
		ip link add in type veth peer name out
		ip netns add shoal-ipset-test
		ip link set out address 02:00:00:00:00:01 netns shoal-ipset-test
		ip netns exec shoal-ipset-test ip link set out up
		ip netns exec shoal-ipset-test ip addr add 192.0.2.1/24 dev out
		ip addr add 192.0.2.2/24 dev in
		ip link set in up`)
	t.Cleanup(func() { sh(t, "ip netns del shoal-ipset-test") })
	const mask = 0xff00ffff
	filled(t, Set{Name: "MACS", Type: "hash:mac", Mark: true, Mask: mask}, map[Entry]uint32{Ether([6]byte{2, 0, 0, 0, 0, 1}): 0x54000007})
	filled(t, Set{Name: "ADDRS", Type: "hash:ip", Mark: true, Mask: mask}, map[Entry]uint32{Addr(netip.MustParseAddr("192.0.2.1")): 0x54000008})
	for _, set := range []struct{ name, mark string }{{"MACS", "0x54120007"}, {"ADDRS", "0x54120008"}} {
		sh(t, `iptables -w -t raw -F; iptables -w -t mangle -F
			iptables -w -t raw -A PREROUTING -j MARK --set-mark 0x00123456
			iptables -w -t mangle -A PREROUTING -p icmp -j SET --map-set `+set.name+` src --map-mark
			iptables -w -t mangle -A PREROUTING -p icmp -m mark ! --mark `+set.mark+` -j DROP
			ip netns exec shoal-ipset-test ping -c 1 -W 5 192.0.2.2`)
	}
}
