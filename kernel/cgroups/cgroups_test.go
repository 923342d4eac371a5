package cgroups

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhereTheHierarchyIsMounted(t *testing.T) {
	const v1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
	type found struct {
		Mounts          []mount
		NetCls, NetPrio bool
	}
	one := func(at, root string) []mount { return []mount{{at, root}} }
	for name, tt := range map[string]struct {
		mountinfo string
		want      found
	}{
		"version 2 alone": {
			"30 25 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
			found{Mounts: one("/sys/fs/cgroup", "/")}},
		"hybrid": {
			"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n" + v1 +
				"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
			found{Mounts: one("/sys/fs/cgroup/unified", "/")}},
		"version 1 alone": {v1, found{}},
		"net_cls and net_prio": {
			v1 + "36 31 0:33 / /sys/fs/cgroup/net_cls,net_prio rw shared:9 - cgroup cgroup rw,net_cls,net_prio\n" +
				"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			found{Mounts: one("/sys/fs/cgroup/unified", "/"), NetCls: true, NetPrio: true}},
		"net_cls, and a name like another": {
			"36 31 0:33 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls,name=net_prio\n", found{NetCls: true}},
		"no optional fields, and several": {
			"30 25 0:26 / /sys/fs/cgroup rw shared:4 master:5 - cgroup2 none rw\n", found{Mounts: one("/sys/fs/cgroup", "/")}},
		"the host's, seen in a namespace": {
			"900 25 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", found{Mounts: one("/sys/fs/cgroup", "/../..")}},
		"a container's part": {
			"900 25 0:26 /docker/12ab /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n", found{Mounts: one("/sys/fs/cgroup", "/docker/12ab")}},
		"one over another": {
			"30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n31 30 0:26 /a /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			found{Mounts: one("/sys/fs/cgroup", "/a")}},
		"elsewhere, with spaces": {
			`30 25 0:26 / /mnt/my\040groups\134 rw - cgroup2 cgroup2 rw` + "\n", found{Mounts: one(`/mnt/my groups\`, "/")}},
		"the usual places first": {
			"30 25 0:26 / /mnt/b rw - cgroup2 cgroup2 rw\n31 25 0:26 / /mnt/a rw - cgroup2 cgroup2 rw\n" +
				"32 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			found{Mounts: []mount{{"/sys/fs/cgroup/unified", "/"}, {"/mnt/b", "/"}, {"/mnt/a", "/"}}}},
		"what is no mountinfo": {"cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n\n - \n", found{}},
	} {
		t.Run(name, func(t *testing.T) {
			h, mounts := parse(tt.mountinfo)
			got := found{mounts, h.NetCls, h.NetPrio}
			if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(mount{})); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestTheGroupOfAFolder(t *testing.T) {
	for _, tt := range []struct{ at, root, folder, want string }{
		{"/sys/fs/cgroup", "/", "/sys/fs/cgroup", "/"},
		{"/sys/fs/cgroup", "/", "/sys/fs/cgroup/a/b/", "/a/b"},
		{"/sys/fs/cgroup/unified", "/docker/12ab", "/sys/fs/cgroup/unified/a", "/docker/12ab/a"},
		{"/sys/fs/cgroup", "/../..", "/sys/fs/cgroup", "/../.."},
		{"/sys/fs/cgroup", "/../..", "/sys/fs/cgroup/a", "/../../a"},
		{"/sys/fs/cgroup", "/", "/sys/fs", ""},
		{"/sys/fs/cgroup/unified", "/", "/sys/fs/cgroup/cpu/a", ""},
		{"/sys/fs/cgroup", "/", "/sys/fs/cgroup/..a", "/..a"},
	} {
		got, err := Hierarchy{Path: tt.at, root: tt.root}.path(tt.folder)
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s of %s at %s: %q, %v; want %q", tt.folder, tt.root, tt.at, got, err, tt.want)
		}
	}
}

func TestTheGroupOfAProcess(t *testing.T) {
	for text, want := range map[string]string{
		"0::/system.slice/docker.service\n":      "/system.slice/docker.service",
		"9:name=systemd:/\n4:memory:/m\n0::/u\n": "/u",
		"0::/../../a\n":                          "/../../a",
		"0::/gone (deleted)\n":                   "/gone",
		"4:memory:/m\n":                          "",
		"":                                       "",
	} {
		if got, err := unifiedPath(text); got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestAGroupIsInAnother(t *testing.T) {
	for _, tt := range []struct {
		group, other string
		want         bool
		unknown      bool
	}{
		{group: "/", other: "/", want: true},
		{group: "/a", other: "/", want: true},
		{group: "/a", other: "/a", want: true},
		{group: "/a/b", other: "/a", want: true},
		{group: "/ab", other: "/a"},
		{group: "/", other: "/a"},
		{group: "/b/a", other: "/a"},
		// Seen in a cgroup namespace of a group's own.
		{group: "/..", other: "/"},
		{group: "/../b", other: "/"},
		{group: "/../b", other: "/..", want: true},
		{group: "/../b", other: "/../b", want: true},
		{group: "/../b", other: "/../c"},
		{group: "/../../b", other: "/../b"},
		{group: "/", other: "/..", want: true},
		{group: "/../b", other: "/../..", want: true},
		{group: "/a", other: "/../b", unknown: true},
	} {
		got, err := within(tt.group, tt.other)
		if got != tt.want || (err != nil) != tt.unknown {
			t.Errorf("%s in %s: %v, %v", tt.group, tt.other, got, err)
		}
	}
}

func TestAFolderThatIsNoGroup(t *testing.T) {
	for _, path := range []string{t.TempDir(), "/proc", "/nonexistent/group"} {
		if err := Check(path); err == nil {
			t.Errorf("%s passes for a control group", path)
		}
	}
}
