package managers

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree makes files below a folder that stands for the root of the file system.
func tree(t *testing.T, files map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestWhatNetworkdRemovesIsReadFromItsFiles(t *testing.T) {
	const no = "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"
	both := []string{"ManageForeignRoutes", "ManageForeignRoutingPolicyRules"}
	for name, tt := range map[string]struct {
		files map[string]string
		want  NetworkdState
	}{
		"no networkd": {nil, NetworkdState{false, both, false}},
		"stock":       {map[string]string{netif + "/state": "", "etc/systemd/networkd.conf": "[Network]\n#ManageForeignRoutes=yes\n"}, NetworkdState{true, both, false}},
		"shoal's":     {map[string]string{netif + "/state": "", DropIn: no}, NetworkdState{Runs: true}},
		"the user's":  {map[string]string{netif + "/state": "", "etc/systemd/networkd.conf": no}, NetworkdState{Runs: true, Owner: true}},
		"one of two":  {map[string]string{netif + "/state": "", "etc/systemd/networkd.conf": "[Network]\nManageForeignRoutes = false\n"}, NetworkdState{true, both[1:], true}},
		"a later name wins": {map[string]string{netif + "/state": "", DropIn: no, "etc/systemd/networkd.conf.d/90.conf": "[Network]\nManageForeignRoutes=yes\n"},
			NetworkdState{true, both[:1], false}},
		"a file in etc hides that in run": {map[string]string{netif + "/state": "", DropIn: no, "etc/systemd/networkd.conf.d/10-shoal.conf": ""}, NetworkdState{true, both, false}},
	} {
		if d := cmp.Diff(tt.want, ReadNetworkd(tree(t, tt.files))); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestNetworkdIsToldOnceAndNotAgainstItsOwner(t *testing.T) {
	root := tree(t, map[string]string{netif + "/state": ""})
	for _, want := range []bool{true, false} {
		if wrote, err := Networkd(root); wrote != want || err != nil {
			t.Errorf("wrote %v, %v; want %v", wrote, err, want)
		}
	}
	if s := ReadNetworkd(root); len(s.Removes) > 0 {
		t.Errorf("told, it still removes %q", s.Removes)
	}
	for range 2 {
		if err := Down(root); err != nil {
			t.Error(err)
		}
	}
	if s := ReadNetworkd(root); len(s.Removes) != 2 {
		t.Errorf("after Down: %+v", s)
	}
	for name, files := range map[string]map[string]string{
		"no networkd":                {},
		"the owner wants it removed": {netif + "/state": "", "etc/systemd/networkd.conf": "[Network]\nManageForeignRoutes=yes\n"},
	} {
		if wrote, err := Networkd(tree(t, files)); wrote || err != nil {
			t.Errorf("%s: wrote %v, %v", name, wrote, err)
		}
	}
}

// TestThePackagedFileKeepsRoutes: what packages install says to systemd-networkd what
// the agent would.
func TestThePackagedFileKeepsRoutes(t *testing.T) {
	root := t.TempDir()
	b, err := os.ReadFile("../packaging/networkd.conf")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "usr/lib/systemd/networkd.conf.d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if s := ReadNetworkd(root); len(s.Removes) != 2 {
		t.Errorf("without it, it removes %v", s.Removes)
	}
	if err := os.WriteFile(filepath.Join(dir, "10-shoal.conf"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if s := ReadNetworkd(root); len(s.Removes) > 0 {
		t.Errorf("with it, it removes %v", s.Removes)
	}
}
