//go:build hosts

package vm

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMachineBoots makes an image, or takes it from the cache, starts a machine of it, and restarts that.
func TestMachineBoots(t *testing.T) {
	ctx := t.Context()
	mirror, err := Mirror()
	if err != nil {
		t.Fatal(err)
	}
	suite := Suite(os.Getenv("SUITE"))
	if suite == "" {
		suite = "trixie"
	}
	image, err := suite.Image(ctx, "../../bin/images", mirror, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	wire, err := NewWire()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wire.Close() })
	m, err := Start(Config{Name: "a", Number: 11, Image: image, Wire: wire, Dir: t.TempDir(), Accel: os.Getenv("ACCEL")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	began := time.Now()
	if err := m.Await(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("booted after %v", time.Since(began))
	run := func(script string) string {
		out, err := m.Run(ctx, script)
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(out)
	}
	if got := run("hostname"); got != "a" {
		t.Errorf("its name is %q", got)
	}
	t.Log(run("uname -r; docker version --format '{{.Server.Version}}'; ip -br addr; ip route; systemctl --failed --no-legend; systemd-analyze; systemd-analyze blame | head -12"))
	if err := m.Put(ctx, "/root/kept", 0o600, strings.NewReader("kept")); err != nil {
		t.Fatal(err)
	}
	reached, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if out, err := wire.Exec(reached, "ping", "-c", "1", "-w", "5", m.Addr().String()); err != nil {
		t.Errorf("the neighbour does not reach it: %v\n%s", err, out)
	}
	if err := m.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	if got := run("cat /root/kept"); got != "kept" {
		t.Errorf("after a restart its file has %q", got)
	}
	if _, err := m.Run(ctx, "exit 3"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("a script that fails: %v", err)
	}
}
