package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAFileIsReadAsTheProcessSeesIt(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("nameserver 10.96.0.10\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadFileOf(os.Getpid(), file, 10); err != nil || string(b) != "nameserver" {
		t.Errorf("%q, %v; want the first 10 bytes", b, err)
	}
	for _, path := range []string{dir, "/dev/zero", "/proc/self/root/etc/passwd"} {
		if b, err := ReadFileOf(os.Getpid(), path, 10); err == nil {
			t.Errorf("%s is read: %q", path, b)
		}
	}
	if _, err := ReadFileOf(1<<30, file, 10); err == nil || !strings.Contains(err.Error(), "process") {
		t.Errorf("of a process that is not there: %v", err)
	}
}
