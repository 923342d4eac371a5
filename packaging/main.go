// Command packaging makes what shoal is installed by: a .deb, an .rpm, a tarball and
// an archive of an OCI image for each architecture. `make packages` runs it.
//
// In: this folder's files (the unit, settings, scripts of the package managers), the
// agent built for each architecture, and what a shoal of this machine prints
// (manual pages, completion). Out: files in one folder. They are the same, byte for
// byte, whenever and wherever they are made of one commit by one version of Go.
//
// It is a module of its own: what it takes is nothing that the agent needs.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// release is what is packaged.
type release struct {
	version string // SemVer
	commit  string
	date    time.Time // of the commit: all files' time
}

func main() {
	var r release
	var unix int64
	flag.StringVar(&r.version, "version", "0.0.0-dev", "SemVer")
	flag.StringVar(&r.commit, "commit", "unknown", "the commit that is packaged")
	flag.Int64Var(&unix, "date", 0, "its date, in seconds since 1970")
	shoal := flag.String("shoal", "../bin/shoal", "a shoal that runs on this machine")
	out := flag.String("out", "../bin/packages", "the folder to write to; what is in it is removed")
	archs := flag.String("archs", "amd64,arm64", "architectures")
	flag.Parse()
	r.date = time.Unix(unix, 0).UTC()
	if err := run(r, *shoal, *out, strings.Split(*archs, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "packaging:", err)
		os.Exit(1)
	}
}

func run(r release, shoal, out string, archs []string) error {
	if err := cmp.Or(os.RemoveAll(out), os.MkdirAll(out, 0o755)); err != nil {
		return err
	}
	printed, err := print(r, shoal)
	if err != nil {
		return err
	}
	for _, arch := range archs {
		program, err := build(r, arch)
		if err != nil {
			return err
		}
		made, err := pack(r, arch, program, printed, out)
		if err != nil {
			return fmt.Errorf("package for %s: %w", arch, err)
		}
		for _, f := range made {
			fmt.Println(f)
		}
	}
	return nil
}

// pack makes all packages for an architecture, and tells their paths.
func pack(r release, arch string, program []byte, printed []file, out string) (made []string, err error) {
	own, err := ownFiles()
	if err != nil {
		return nil, err
	}
	files := append(own, printed...)
	files = append(files, file{path: "/usr/bin/shoal", mode: 0o755, content: program})
	for name, write := range map[string]func(string) error{
		"deb":       func(to string) error { return writePackage(r, "deb", arch, files, to) },
		"rpm":       func(to string) error { return writePackage(r, "rpm", arch, files, to) },
		"tar.gz":    func(to string) error { return writeTarball(r, arch, files, to) },
		"image.tar": func(to string) error { return writeImage(r, arch, program, to) },
	} {
		to := filepath.Join(out, fmt.Sprintf("shoal_%s_linux_%s.%s", r.version, arch, name))
		if err := write(to); err != nil {
			return nil, err
		}
		made = append(made, to)
	}
	return made, nil
}
