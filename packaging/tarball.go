package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// writeTarball makes a tarball of all that is installed, in a folder of the name and
// version: what is in there is copied to the root.
func writeTarball(r release, arch string, files []file, to string) error {
	root := fmt.Sprintf("shoal-%s-linux-%s", r.version, arch)
	var in []file
	for _, f := range files {
		if f.only != "deb" {
			f.path = root + f.path
			in = append(in, f)
		}
	}
	b, err := archive(r, in)
	if err == nil {
		b, err = compress(b)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

// archive makes a tar of files and their folders, all root's.
func archive(r release, files []file) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	made := map[string]bool{}
	for _, f := range files {
		name := strings.TrimPrefix(f.path, "/")
		for _, dir := range parents(name) {
			if made[dir] {
				continue
			}
			made[dir] = true
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: r.date, Format: tar.FormatPAX}); err != nil {
				return nil, err
			}
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(f.mode), Size: int64(len(f.content)), ModTime: r.date, Format: tar.FormatPAX}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// parents are the folders that a file is in, the outermost first.
func parents(name string) (dirs []string) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		dirs = append(dirs, dir)
	}
	slices.Reverse(dirs)
	return dirs
}
