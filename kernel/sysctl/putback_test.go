package sysctl

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPutBackRestoresOneParameter(t *testing.T) {
	dir := t.TempDir()
	k := &Keeper{root: dir, file: filepath.Join(dir, "state.json")}
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("0"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := k.Set(name, "1"); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "a", "neverchanged"} {
		if err := k.PutBack(name); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"a": "0", "b": "1"} {
		if b, _ := os.ReadFile(filepath.Join(dir, name)); string(b) != want {
			t.Errorf("%s is %s, want %s", name, b, want)
		}
	}
	if err := k.PutBack("b"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(k.file); err == nil {
		t.Error("the file is left with nothing to remember")
	}
}
