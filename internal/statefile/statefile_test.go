package statefile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAFileIsReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	var got map[string]string
	if found, err := Load(path, &got); found || err != nil {
		t.Errorf("without a file: found %v, error %v", found, err)
	}
	for _, v := range []string{"long enough to leave a rest", "short"} {
		if err := Save(path, map[string]string{"a": v}); err != nil {
			t.Fatal(err)
		}
		got = nil
		if found, err := Load(path, &got); !found || err != nil || got["a"] != v {
			t.Errorf("got %v, %v, %v, want %s", got, found, err, v)
		}
	}
	// Who has the former one open reads it to its end: it is not written to.
	former := filepath.Join(dir, "former")
	if err := os.Link(path, former); err != nil {
		t.Fatal(err)
	}
	if err := Save(path, map[string]string{"a": "third"}); err != nil {
		t.Fatal(err)
	}
	if found, err := Load(former, &got); !found || err != nil || got["a"] != "short" {
		t.Errorf("the former file holds %v, %v, %v", got, found, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestAFailedWriteLeavesTheOldFileAndNoOther(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	if err := os.MkdirAll(filepath.Join(path, "inner"), 0o700); err != nil { // cannot be replaced by a file
		t.Fatal(err)
	}
	if err := Save(path, 1); err == nil {
		t.Error("no error")
	}
	if err := Save(path, func() {}); err == nil {
		t.Error("what is not JSON was written")
	}
	if _, err := Load(path, new(int)); err == nil {
		t.Error("a folder was read")
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}
