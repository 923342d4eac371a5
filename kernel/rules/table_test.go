package rules

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// entry is one of that length, every octet of it the same.
func entry(octet byte, length int) []byte {
	b := bytes.Repeat([]byte{octet}, length)
	binary.NativeEndian.PutUint16(b[entryNext:], uint16(length))
	return b
}

func TestCountersAreForgottenAndNothingElse(t *testing.T) {
	b := append(entry(1, 152), entry(2, 112)...)
	if err := clearCounters(b); err != nil {
		t.Fatal(err)
	}
	for i, c := range b {
		at := i % 152
		counter := at >= 96 && at < 112
		if length := at == 90 || at == 91; !length && (c == 0) != counter {
			t.Errorf("octet %d is %d", i, c)
		}
	}
	for name, bad := range map[string][]byte{
		"cut off":     entry(1, 200)[:150],
		"too short":   append(entry(1, 112), 1, 2, 3),
		"no length":   make([]byte, 112),
		"ends behind": append(entry(1, 112), entry(1, 160)[:112]...),
	} {
		if clearCounters(bad) == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestVariantIsToldByTheProgram(t *testing.T) {
	dir := t.TempDir()
	for name, want := range map[string]variant{
		"xtables-nft-multi": nft, "xtables-legacy-multi": legacy, "iptables-legacy": legacy, "xtables-multi": unknown,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(dir, "to-"+name)
		if err := os.Symlink(name, link); err != nil {
			t.Fatal(err)
		}
		if got := variantOf(link); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
	if variantOf(filepath.Join(dir, "missing")) != unknown {
		t.Error("one that is not there is known")
	}
}
