//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/firewall"
	"shoal/lab"
	"shoal/lab/kernel"
)

// TestSavedRules: rules that a service saves when the machine stops are restored when it starts, where no set is, or it is
// told why not, and what to do about it.
func TestSavedRules(t *testing.T) {
	h := home(t)
	h.meshSubnet()
	h.run("saved", "--network mesh -l shoal.service=saved -l shoal.publish=8096:8000")
	h.answered(h.web("saved"), "saved")
	root := t.TempDir()
	file := filepath.Join(root, "etc/iptables/rules.v4")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(h.Exec("iptables-save")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	restore := []string{"unshare", "--net", "sh", "-c", "iptables-restore < " + file} // as at the next start: nothing is there
	found, err := firewall.FindSaved(root)
	if err != nil {
		t.Fatal(err)
	}
	out, err := h.TryExec(restore...)
	if (err == nil) != (len(found) == 0) {
		t.Errorf("restored: %v\n%s\nwhat is told: %v", err, out, found)
	}
	if (lab.Plane() == kernel.IPVS) != (len(found) > 0) {
		t.Errorf("told is %v", found)
	}
	for _, f := range found {
		_, command, _ := strings.Cut(f.Reason, "its own: ")
		h.Exec("sh", "-c", strings.Replace(command, f.File, file, 1))
		h.Exec(restore...)
	}
}
