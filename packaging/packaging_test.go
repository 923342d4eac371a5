package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// made is a release of which the program is a script: what packages are made of is not
// what is tested here.
func made(t *testing.T) (dir string) {
	t.Helper()
	return madeAs(t, "0.1.0-dev.7+gabc", bytes.Repeat([]byte("#!/bin/sh\n"), 100000))
}

func madeAs(t *testing.T, version string, program []byte) (dir string) {
	t.Helper()
	dir = t.TempDir()
	r := release{version: version, commit: "abc", date: time.Unix(1700000000, 0).UTC()}
	printed := []file{
		{path: "/usr/share/man/man1/shoal.1.gz", mode: 0o644, content: []byte("page")},
		{path: "/usr/share/zsh/vendor-completions/_shoal", mode: 0o644, content: []byte("zsh"), only: "deb"},
		{path: "/usr/share/zsh/site-functions/_shoal", mode: 0o644, content: []byte("zsh"), only: "rpm"},
	}
	if _, err := pack(r, "amd64", program, printed, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func the(t *testing.T, dir, kind string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*."+kind))
	if err != nil || len(found) != 1 {
		t.Fatalf("%d files *.%s (%v)", len(found), kind, err)
	}
	return found[0]
}

func output(t *testing.T, command string, args ...string) string {
	t.Helper()
	out, err := exec.Command(command, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

func has(t *testing.T, what, text string, wanted ...string) {
	t.Helper()
	for _, w := range wanted {
		if !strings.Contains(text, w) {
			t.Errorf("%s has no %q:\n%s", what, w, text)
		}
	}
}

func TestWhatIsMadeTwiceIsTheSame(t *testing.T) {
	first, second := made(t), made(t)
	for _, kind := range []string{"deb", "rpm", "tar.gz", "image.tar"} {
		a, err := os.ReadFile(the(t, first, kind))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(the(t, second, kind))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("two files *.%s of one release differ", kind)
		}
	}
}

func TestTheDebHasWhatDpkgNeeds(t *testing.T) {
	deb := the(t, made(t), "deb")
	has(t, "dpkg-deb -I", output(t, "dpkg-deb", "-I", deb), "Package: shoal\n", "Version: 0.1.0~dev.7+gabc\n", "Architecture: amd64\n", "Depends: iptables, kmod\n", "conffiles", "postinst", "prerm", "postrm")
	list := output(t, "dpkg-deb", "-c", deb)
	has(t, "dpkg-deb -c", list, "-rwxr-xr-x root/root", "./usr/bin/shoal\n", "./usr/lib/systemd/system/shoal.service\n", "-rw------- root/root",
		"./etc/shoal/agent.yaml\n", "./usr/lib/systemd/networkd.conf.d/10-shoal.conf\n", "./usr/share/man/man1/shoal.1.gz\n", "vendor-completions/_shoal\n", "CHANGELOG.md\n", "./usr/share/doc/shoal/docs/operations.md\n")
	if strings.Contains(list, "site-functions") {
		t.Error("it has a file of the rpm")
	}
}

func TestTheRPMHasWhatRpmNeeds(t *testing.T) {
	rpm := the(t, made(t), "rpm")
	has(t, "rpm -qp", output(t, "rpm", "-qp", "--nosignature", "--qf", "%{NAME} %{VERSION} %{ARCH}\n", rpm), "shoal 0.1.0~dev.7+gabc x86_64\n")
	has(t, "rpm -qpl", output(t, "rpm", "-qpl", "--nosignature", rpm), "/usr/bin/shoal\n", "/usr/lib/systemd/system/shoal.service\n", "site-functions/_shoal\n")
	has(t, "its settings", output(t, "rpm", "-qpc", "--nosignature", rpm), "/etc/shoal/agent.yaml\n")
	has(t, "its scripts", output(t, "rpm", "-qp", "--nosignature", "--scripts", rpm), "postinstall", "preuninstall", "postuninstall", "try-restart")
}

// TestTheRPMIsInstalledUpgradedAndRemoved by rpm itself, below a root folder whose systemctl
// and shoal write down what they are told.
func TestTheRPMIsInstalledUpgradedAndRemoved(t *testing.T) {
	root := t.TempDir()
	program := func(version string) []byte {
		return []byte("#!/bin/sh\necho shoal " + version + " $* >>/told\n")
	}
	write := func(path string, mode os.FileMode, content []byte) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, mode); err != nil {
			t.Fatal(err)
		}
	}
	read := func(path string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	// A shell, and the libraries that it is linked with.
	const shell = "/bin/busybox"
	for _, from := range append(regexp.MustCompile(`/\S+`).FindAllString(output(t, "ldd", shell), -1), shell) {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		write(from, 0o755, b)
	}
	if err := os.Symlink("busybox", filepath.Join(root, "bin/sh")); err != nil {
		t.Fatal(err)
	}
	write("usr/bin/systemctl", 0o755, []byte("#!/bin/sh\necho systemctl $* >>/told\n"))
	write("run/systemd/system/.is", 0o644, nil)
	rpm := func(args ...string) {
		t.Helper()
		// What it needs is not in this root; rpm makes it itself who installs.
		output(t, "unshare", append([]string{"--map-root-user", "rpm", "--root", root, "--nodeps", "--nosignature"}, args...)...)
	}
	told := func(want string) {
		t.Helper()
		if got := read("told"); got != want {
			t.Errorf("the scripts called\n%swant\n%s", got, want)
		}
		os.Remove(filepath.Join(root, "told"))
	}

	rpm("-i", the(t, madeAs(t, "0.1.0", program("0.1.0")), "rpm"))
	told("systemctl daemon-reload\n")
	write("etc/shoal/agent.yaml", 0o600, []byte("mine\n"))
	write("var/lib/shoal/state", 0o600, []byte("state\n"))

	rpm("-U", the(t, madeAs(t, "0.2.0", program("0.2.0")), "rpm"))
	told("systemctl daemon-reload\nsystemctl try-restart shoal.service\nsystemctl daemon-reload\n")
	if got := read("usr/bin/shoal"); got != string(program("0.2.0")) {
		t.Errorf("after the upgrade the program is\n%s", got)
	}
	if got := read("etc/shoal/agent.yaml"); got != "mine\n" {
		t.Errorf("after the upgrade the settings are %q", got)
	}

	rpm("-e", "shoal")
	told("systemctl disable --now shoal.service\nshoal 0.2.0 down\nsystemctl daemon-reload\n")
	if _, err := os.Stat(filepath.Join(root, "usr/bin/shoal")); err == nil {
		t.Error("the program is still there")
	}
	if got := read("etc/shoal/agent.yaml.rpmsave") + read("var/lib/shoal/state"); got != "mine\nstate\n" {
		t.Errorf("settings and state are %q", got)
	}
}

func TestScriptsAreShellAsItIsEverywhere(t *testing.T) {
	scripts, err := filepath.Glob("[dr][ep][bm]/*")
	if err != nil || len(scripts) != 6 {
		t.Fatalf("%d scripts (%v)", len(scripts), err)
	}
	for _, s := range append(scripts, "version.sh") {
		output(t, "sh", "-n", s)
	}
}

// TestTheUnitIsHardened: systemd's own measure, from 0, which nothing is, to 10. Where
// the limit is passed, systemd-analyze says by what.
func TestTheUnitIsHardened(t *testing.T) {
	output(t, "systemd-analyze", "security", "--offline=yes", "--threshold=50", "--no-pager", "shoal.service")
}
