package lab

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fake records what a test would be told.
type fake struct {
	bare
	failure string
}

func (f *fake) Fatalf(format string, args ...any) { f.failure = fmt.Sprintf(format, args...) }

func TestEventuallyReportsTheLastError(t *testing.T) {
	n := 0
	check := func() error {
		if n++; n < 3 {
			return fmt.Errorf("try %d", n)
		}
		return nil
	}
	f := new(fake)
	Eventually(f, time.Minute, "three tries", check)
	if f.failure != "" || n != 3 {
		t.Errorf("after %d tries: %s", n, f.failure)
	}
	Eventually(f, 30*time.Millisecond, "the impossible", func() error { return errors.New("no such luck") })
	if !strings.Contains(f.failure, "the impossible: no such luck") {
		t.Errorf("failed with %q", f.failure)
	}
}

func TestWithoutAKernelTheLabSaysWhatToDo(t *testing.T) {
	t.Setenv("LAB", "")
	if _, err := Open(); err == nil || !strings.Contains(err.Error(), "lab run") {
		t.Errorf("got %v", err)
	}
}

func TestTheImageHoldsProgramsWithTheirLibraries(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	if sh, err = filepath.EvalSymlinks(sh); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	l := &layer{w: tar.NewWriter(&b), libraries: map[string]bool{}}
	l.program("bin/sh", sh)
	l.program("bin/again", sh)
	if err := errors.Join(l.err, l.w.Close()); err != nil {
		t.Fatal(err)
	}
	names := map[string]int{}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names[filepath.Base(h.Name)]++
		if h.Mode != 0o755 || h.Size == 0 {
			t.Errorf("%s has mode %o and %d bytes", h.Name, h.Mode, h.Size)
		}
	}
	if names["sh"] != 1 || names["again"] != 1 || names["libc.so.6"] != 1 {
		t.Errorf("the image holds %v; want both programs, and the C library once", names)
	}
	l = &layer{w: tar.NewWriter(io.Discard), libraries: map[string]bool{}}
	if l.program("bin/none", "/nonexistent"); l.err == nil {
		t.Error("a program that is not there is no error")
	}
}
