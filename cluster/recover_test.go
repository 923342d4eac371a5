package cluster

import (
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
)

func TestAHostChangesToTheIdentityBesideItsOwn(t *testing.T) {
	h := Host{Dir: filepath.Join(t.TempDir(), "cluster"), Node: "a", Addr: netip.MustParseAddr("127.0.0.1")}
	if _, err := LastAddr(h); !errors.Is(err, ErrNotJoined) {
		t.Errorf("the address of nobody: %v", err)
	}
	old, err := Create(h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Former(h); !errors.Is(err, ErrNotJoined) {
		t.Errorf("before there was another: %v", err)
	}
	if addr, err := LastAddr(h); err != nil || addr != h.Addr {
		t.Errorf("its address is %v, error %v", addr, err)
	}
	for range 2 { // the first comes to nothing
		if err := CreateBeside(h); err != nil {
			t.Fatal(err)
		}
		if id, err := Load(h); err != nil || id.Key() != old.Key() {
			t.Errorf("with another beside, it is not itself any more: %v", err)
		}
	}
	if err := Change(h); err != nil {
		t.Fatal(err)
	}
	id, err := Load(h)
	if err != nil || id.CAFingerprint() == old.CAFingerprint() || !id.HoldsCA() {
		t.Errorf("after the change: %v", err)
	}
	former, err := Former(h)
	if err != nil || former.Key() != old.Key() {
		t.Errorf("the former one is another: %v", err)
	}
	if err := ForgetFormer(h); err != nil {
		t.Fatal(err)
	}
	if _, err := Former(h); !errors.Is(err, ErrNotJoined) {
		t.Errorf("it is not forgotten: %v", err)
	}
	if err := Change(h); err == nil {
		t.Error("it changed to one that is not there")
	}
	if again, err := Load(h); err != nil || again.Key() != id.Key() {
		t.Errorf("a change that failed left another: %v", err)
	}
}

// TestAChangeThatBreaksOffLeavesTheFormerIdentity: without it the other hosts would not know the one that changed.
func TestAChangeThatBreaksOffLeavesTheFormerIdentity(t *testing.T) {
	h := Host{Dir: filepath.Join(t.TempDir(), "cluster"), Node: "a", Addr: netip.MustParseAddr("127.0.0.1")}
	old, err := Create(h)
	if err != nil {
		t.Fatal(err)
	}
	if err := Change(h); err == nil { // with nothing beside, it ends just before the exchange
		t.Fatal("it changed to one that is not there")
	}
	if id, err := Load(h); err != nil || id.Key() != old.Key() {
		t.Errorf("the host is another: %v", err)
	}
	if former, err := Former(h); err != nil || former.Key() != old.Key() {
		t.Errorf("before the exchange the former identity has no place of its own: %v", err)
	}
	// It is run again.
	if err := errors.Join(CreateBeside(h), Change(h)); err != nil {
		t.Fatal(err)
	}
	if id, err := Load(h); err != nil || id.CAFingerprint() == old.CAFingerprint() {
		t.Errorf("it did not change: %v", err)
	}
	if former, err := Former(h); err != nil || former.Key() != old.Key() || !former.HoldsCA() {
		t.Errorf("the former identity is another, or not whole: %v", err)
	}
	if left, err := filepath.Glob(h.Dir + "*"); err != nil || len(left) != 2 {
		t.Errorf("left are %v, %v", left, err)
	}
}
