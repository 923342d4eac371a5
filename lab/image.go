package lab

import (
	"archive/tar"
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Image is the one image on every host: whoami and busybox.
const Image = "whoami"

// ImageConfig is what the image's containers have by default, as lines of a Dockerfile.
var ImageConfig = []string{
	"ENV PATH=/bin",
	"WORKDIR /",
	`CMD ["whoami", "serve"]`,
}

func (w *world) makeImage() ([]byte, error) { return ImageLayer(filepath.Join(w.bin, "whoami")) }

// ImageLayer makes the image's one layer, a tar, around the program whoami: that and busybox, and the C library they are
// linked to, which is what most containers look names up with. `docker import` takes it, with [ImageConfig].
func ImageLayer(whoami string) ([]byte, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("the test image needs busybox: `make deps` installs it: %w", err)
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the applets of %s: %w", busybox, err)
	}
	var b bytes.Buffer
	layer := newLayer(&b)
	layer.program("bin/busybox", busybox)
	layer.program("bin/whoami", whoami)
	if getent, err := exec.LookPath("getent"); err == nil {
		layer.program("bin/getent", getent)
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" && applet != "whoami" {
			layer.add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"}, nil)
		}
	}
	if err := layer.close(); err != nil {
		return nil, fmt.Errorf("make the test image: %w", err)
	}
	return b.Bytes(), nil
}

// ProgramLayer makes the one layer of an image that stands in for a registry's: a program of this machine, in /bin, and what it is
// linked to.
func ProgramLayer(program string) ([]byte, error) {
	var b bytes.Buffer
	layer := newLayer(&b)
	layer.program("bin/"+filepath.Base(program), program)
	if err := layer.close(); err != nil {
		return nil, fmt.Errorf("make an image of %s: %w", program, err)
	}
	return b.Bytes(), nil
}

// layer writes a tar, until its first error.
type layer struct {
	w         *tar.Writer
	libraries map[string]bool // those in it
	err       error
}

// newLayer begins a layer with what every image has.
func newLayer(to io.Writer) *layer {
	l := &layer{w: tar.NewWriter(to), libraries: map[string]bool{}}
	for _, dir := range []string{"bin/", "etc/", "root/", "var/"} {
		l.add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil)
	}
	l.add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	l.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	l.file("etc/group", 0o644, []byte("root:x:0:\n"))
	return l
}

// close ends the tar, and returns the layer's first error.
func (l *layer) close() error {
	if l.err == nil {
		l.err = l.w.Close()
	}
	return l.err
}

func (l *layer) add(h tar.Header, content []byte) {
	if l.err != nil {
		return
	}
	h.Size = int64(len(content))
	if l.err = l.w.WriteHeader(&h); l.err == nil {
		_, l.err = l.w.Write(content)
	}
}

func (l *layer) file(name string, mode int64, content []byte) {
	l.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, content)
}

// program adds a program, as name, and what it is linked to, where it is on this machine.
func (l *layer) program(name, from string) {
	b, err := os.ReadFile(from)
	if err != nil {
		l.fail(err)
		return
	}
	l.file(name, 0o755, b)
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		l.fail(fmt.Errorf("%s: %w", from, err))
		return
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		l.fail(fmt.Errorf("libraries of %s: %w", from, err))
		return
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			path, err := io.ReadAll(p.Open())
			if err != nil {
				l.fail(err)
				return
			}
			needed = append(needed, strings.TrimRight(string(path), "\x00"))
		}
	}
	for _, library := range needed {
		l.library(library)
	}
}

// libraryDirs is where Debian and its like keep shared libraries.
var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/lib"}

// library adds a shared library by its name, or its path, and what it is linked to itself.
func (l *layer) library(name string) {
	if l.libraries[name] {
		return
	}
	l.libraries[name] = true
	if filepath.IsAbs(name) {
		l.program(name[1:], name)
		return
	}
	for _, dir := range libraryDirs {
		if path := filepath.Join(dir, name); exists(path) {
			l.program(path[1:], path)
			return
		}
	}
	l.fail(fmt.Errorf("no shared library %s in %v", name, libraryDirs))
}

func (l *layer) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// importImage gives the image to the engine, as `docker import` would.
func (m *machine) importImage() error {
	layer, err := m.w.image()
	if err != nil {
		return err
	}
	query := url.Values{"fromSrc": {"-"}, "repo": {Image}, "tag": {"latest"}, "changes": ImageConfig}
	resp, err := client(m.dockerSocket()).Post("http://docker/images/create?"+query.Encode(), "application/x-tar", bytes.NewReader(layer))
	if err != nil {
		return fmt.Errorf("%s: import the test image: %w", m.name, err)
	}
	defer resp.Body.Close()
	var said string
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		var progress struct{ Error, Message string }
		_ = json.Unmarshal(lines.Bytes(), &progress)
		said += progress.Error + progress.Message
	}
	if resp.StatusCode != http.StatusOK || said != "" {
		return fmt.Errorf("%s: import the test image: %s: %s", m.name, resp.Status, said)
	}
	return nil
}
