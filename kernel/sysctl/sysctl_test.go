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
