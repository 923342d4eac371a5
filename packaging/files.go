package main

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// file is one that is installed.
type file struct {
	path    string // from the root
	mode    fs.FileMode
	content []byte
	config  bool   // its user changes it: an upgrade leaves it alone
	only    string // the kind of package that has it, "deb" or "rpm"; "": all
}

//go:embed shoal.service agent.yaml networkd.conf deb rpm
var here embed.FS

// ownFiles are the files of this repository that are installed.
func ownFiles() ([]file, error) {
	files := []file{
		{path: "/usr/lib/systemd/system/shoal.service", mode: 0o644},
		{path: "/usr/lib/systemd/networkd.conf.d/10-shoal.conf", mode: 0o644},
		{path: "/etc/shoal/agent.yaml", mode: 0o600, config: true}, // a token may be in it
	}
	for i, name := range []string{"shoal.service", "networkd.conf", "agent.yaml"} {
		b, err := here.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files[i].content = b
	}
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		return nil, err
	}
	for _, page := range append(pages, "../README.md", "../CHANGELOG.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			return nil, err
		}
		files = append(files, file{path: filepath.Join("/usr/share/doc/shoal", strings.TrimPrefix(page, "../")), mode: 0o644, content: b})
	}
	return files, nil
}

// print has a shoal print its manual pages and its completion.
func print(r release, shoal string) ([]file, error) {
	dir, err := os.MkdirTemp("", "shoal-man-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if out, err := exec.Command(shoal, "man", dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("print the manual pages: %w\n%s", err, out)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) == 0 {
		return nil, fmt.Errorf("%s man printed no pages: %w", shoal, err)
	}
	var files []file
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err == nil {
			b, err = compress(b)
		}
		if err != nil {
			return nil, err
		}
		files = append(files, file{path: "/usr/share/man/man1/" + filepath.Base(page) + ".gz", mode: 0o644, content: b})
	}
	for _, c := range []file{
		{path: "/usr/share/bash-completion/completions/shoal", only: ""},
		{path: "/usr/share/zsh/vendor-completions/_shoal", only: "deb"},
		{path: "/usr/share/zsh/site-functions/_shoal", only: "rpm"},
		{path: "/usr/share/fish/vendor_completions.d/shoal.fish", only: ""},
	} {
		c.mode = 0o644
		if c.content, err = exec.Command(shoal, "completion", shellOf(c.path)).Output(); err != nil {
			return nil, fmt.Errorf("print the completion for %s: %w", shellOf(c.path), err)
		}
		files = append(files, c)
	}
	return files, nil
}

// shellOf is the shell that reads a completion there.
func shellOf(path string) string {
	for _, shell := range []string{"bash", "zsh"} {
		if bytes.Contains([]byte(path), []byte("/"+shell)) {
			return shell
		}
	}
	return "fish"
}

// build builds the agent for an architecture.
func build(r release, arch string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "shoal-build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	to := filepath.Join(dir, "shoal")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", fmt.Sprintf("-s -w -X main.version=%s -X main.commit=%s -X main.date=%s",
		r.version, r.commit, r.date.Format(time.RFC3339)), "-o", to, "./cmd/shoal")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build shoal for %s: %w\n%s", arch, err, out)
	}
	return os.ReadFile(to)
}

// compress compresses by gzip, without a name or a time.
func compress(b []byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(b); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
