package preflight

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTheDistributionAndUFWAreReadFromTheirFiles(t *testing.T) {
	root := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if d := distro(root); d.ID != "" || ufw(root) {
		t.Errorf("of nothing: %+v", d)
	}
	write("usr/lib/os-release", "NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n")
	if d := distro(root); d.ID != "rocky" || !d.is("rhel") || d.is("debian") {
		t.Errorf("Rocky Linux: %+v", d)
	}
	write("etc/os-release", "ID=debian\n")
	if d := distro(root); !d.is("debian") {
		t.Errorf("Debian: %+v", d)
	}
	write("etc/ufw/ufw.conf", "# ENABLED=yes\nENABLED=no\n")
	if ufw(root) {
		t.Error("ufw is not enabled")
	}
	write("etc/ufw/ufw.conf", "ENABLED=yes\nLOGLEVEL=low\n")
	if !ufw(root) {
		t.Error("ufw is enabled")
	}
}
