package backup

import (
	"bytes"
	"io"
	"maps"
	"strings"
	"testing"
	"time"
)

func plain(t testing.TB, snapshot []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, Manifest{Version: "1", Node: "a", Created: time.Unix(1, 0).UTC(), Role: "server"},
		map[string][]byte{"ca.key": []byte("secret")}, bytes.NewReader(snapshot)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sealed takes a second, by design of scrypt.
func sealed(t testing.TB, snapshot []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := Seal(&b, "correct horse")
	if err == nil {
		_, err = w.Write(plain(t, snapshot))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestABackupIsReadAsItWasWritten(t *testing.T) {
	for _, size := range []int{0, 1, pieceBytes - 1, pieceBytes, 2*pieceBytes + 7} {
		want := bytes.Repeat([]byte{7}, size)
		var r io.Reader = bytes.NewReader(plain(t, want))
		if size == 1 {
			var err error
			if r, err = Unseal(bytes.NewReader(sealed(t, want)), "correct horse"); err != nil {
				t.Fatal(err)
			}
		}
		var got bytes.Buffer
		m, files, err := Read(r, &got)
		if err != nil || !bytes.Equal(got.Bytes(), want) || m.Node != "a" || m.Role != "server" ||
			!maps.EqualFunc(files, map[string][]byte{"ca.key": []byte("secret")}, bytes.Equal) {
			t.Errorf("%d bytes: %+v, %v, %v, %d bytes", size, m, files, err, got.Len())
		}
	}
}

func TestABackupThatBrokeOffIsRefused(t *testing.T) {
	whole := plain(t, []byte("snapshot"))
	end := bytes.LastIndex(whole, []byte("end\x00"))
	for n := 0; n < end; n += 100 {
		if _, _, err := Read(bytes.NewReader(whole[:n]), io.Discard); err == nil {
			t.Fatalf("%d bytes of it were taken for whole", n)
		}
	}
	secret := sealed(t, nil)
	if bytes.Contains(secret, []byte("secret")) {
		t.Error("the key can be read in it")
	}
	if _, err := Unseal(bytes.NewReader(secret), "wrong"); err == nil || !strings.Contains(err.Error(), "passphrase is another") {
		t.Errorf("with another passphrase: %v", err)
	}
	if _, err := Unseal(strings.NewReader("something else"), "x"); err == nil {
		t.Error("something else was decrypted")
	}
}

// FuzzRead: what a file holds is anybody's; names in it are never paths.
func FuzzRead(f *testing.F) {
	f.Add(plain(f, []byte("s")))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, files, err := Read(bytes.NewReader(b), io.Discard)
		for name := range files {
			if err == nil && strings.Contains(name, "/") {
				t.Errorf("a file is named %q", name)
			}
		}
	})
}
