package main

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // the kinds that there are
	nfiles "github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

const description = `service mesh for plain Docker
shoal gives services on plain Docker a name, a stable virtual address and a
load balancer in the kernel, by labels on docker run.`

// writePackage makes a package for a package manager: "deb" or "rpm".
func writePackage(r release, kind, arch string, files []file, to string) error {
	dir, err := os.MkdirTemp("", "shoal-package-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	put := func(name string, b []byte) (string, error) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		return path, os.WriteFile(path, b, 0o644)
	}
	info := &nfpm.Info{
		Name: "shoal", Arch: arch, Platform: "linux", Version: r.version, Section: "net", Priority: "optional",
		Maintainer: "The shoal authors <shoal@localhost>", Description: description, MTime: r.date, DisableGlobbing: true,
	}
	info.RPM.BuildHost = "localhost"
	info.RPM.Summary = "service mesh for plain Docker"
	info.Depends = []string{"iptables", "kmod"}
	if kind == "deb" {
		info.Recommends = []string{"docker.io | docker-ce"}
	}
	for _, f := range files {
		if f.only != "" && f.only != kind {
			continue
		}
		source, err := put(filepath.Join("files", f.path), f.content)
		if err != nil {
			return err
		}
		c := &nfiles.Content{Source: source, Destination: f.path, FileInfo: &nfiles.ContentFileInfo{Mode: f.mode, MTime: r.date, Owner: "root", Group: "root"}}
		if f.config {
			c.Type = nfiles.TypeConfigNoReplace
		}
		info.Contents = append(info.Contents, c)
	}
	slices.SortFunc(info.Contents, func(a, b *nfiles.Content) int {
		if a.Destination < b.Destination {
			return -1
		}
		return 1
	})
	for name, script := range map[string]*string{
		"deb/postinst": &info.Scripts.PostInstall, "deb/prerm": &info.Scripts.PreRemove, "deb/postrm": &info.Scripts.PostRemove,
		"rpm/post": &info.Scripts.PostInstall, "rpm/preun": &info.Scripts.PreRemove, "rpm/postun": &info.Scripts.PostRemove,
	} {
		if filepath.Dir(name) != kind {
			continue
		}
		b, err := here.ReadFile(name)
		if err == nil {
			*script, err = put(name, b)
		}
		if err != nil {
			return err
		}
	}
	info = nfpm.WithDefaults(info)
	if err := nfpm.PrepareForPackager(info, kind); err != nil {
		return err
	}
	packager, err := nfpm.Get(kind)
	if err != nil {
		return err
	}
	return create(to, func(w *os.File) error { return packager.Package(info, w) })
}

// create writes a file.
func create(path string, write func(*os.File) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
