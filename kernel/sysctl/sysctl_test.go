package sysctl

import (
	"os"
	"path/filepath"
	"testing"

	"shoal/kernel"
)

func TestSetRemembersAndRestores(t *testing.T) {
	dir := t.TempDir()
	param := filepath.Join(dir, "net/ipv4/ip_forward")
	if err := os.MkdirAll(filepath.Dir(param), 0o755); err != nil {
		t.Fatal(err)
	}
	value := func(want string) {
		t.Helper()
		if b, _ := os.ReadFile(param); string(b) != want {
			t.Errorf("value %q, want %q", b, want)
		}
	}
	write := func(v string) {
		t.Helper()
		if err := os.WriteFile(param, []byte(v), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	keeper := func() *Keeper { return &Keeper{root: dir, file: filepath.Join(dir, "state.json")} }
	set := func(v string) {
		t.Helper()
		if err := keeper().Set("net.ipv4.ip_forward", v); err != nil {
			t.Error(err)
		}
	}

	write("0\n")
	set("1")
	value("1")
	before := kernel.Total()
	set("1")
	if kernel.Total() != before {
		t.Error("what stands already was written again")
	}
	write("2")
	set("1") // what it was at first is what counts
	for range 2 {
		if err := keeper().Restore(); err != nil {
			t.Error(err)
		}
		value("0")
	}
	if err := keeper().Set("net.ipv4.nosuch", "1"); err == nil {
		t.Error("a parameter that is not there was set")
	}
	if _, err := os.Stat(keeper().file); err == nil {
		t.Error("the file is left with nothing to remember")
	}
}

func TestNamesHaveDotsOrSlashes(t *testing.T) {
	k := &Keeper{root: "/proc/sys"}
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":                "/proc/sys/net/ipv4/ip_forward",
		"net/ipv4/ip_forward":                "/proc/sys/net/ipv4/ip_forward",
		"net/ipv4/conf/eth0.100/rp_filter":   "/proc/sys/net/ipv4/conf/eth0.100/rp_filter",
		"net.ipv4.conf.eth0/100.rp_filter":   "/proc/sys/net/ipv4/conf/eth0.100/rp_filter",
		IPv4("eth0.100", "rp_filter"):        "/proc/sys/net/ipv4/conf/eth0.100/rp_filter",
		IPv4("all", "route_localnet"):        "/proc/sys/net/ipv4/conf/all/route_localnet",
		"net.bridge.bridge-nf-call-iptables": "/proc/sys/net/bridge/bridge-nf-call-iptables",
	} {
		if got := k.path(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestAParameterOfADottedDeviceIsSetAndRestored(t *testing.T) {
	dir := t.TempDir()
	k := &Keeper{root: dir, file: filepath.Join(dir, "state.json")}
	param := filepath.Join(dir, "net/ipv4/conf/eth0.100/rp_filter")
	if err := os.MkdirAll(filepath.Dir(param), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(param, []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	value := func(want string) {
		t.Helper()
		if b, _ := os.ReadFile(param); string(b) != want {
			t.Errorf("value %q, want %q", b, want)
		}
	}
	if err := k.Set(IPv4("eth0.100", "rp_filter"), "2"); err != nil {
		t.Error(err)
	}
	value("2")
	if err := k.Restore(); err != nil {
		t.Error(err)
	}
	value("1")
}
