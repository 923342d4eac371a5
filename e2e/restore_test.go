//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
)

// TestHostsAStoreIsRestoredFromItsBackup: the only server of the store loses its disk. Restored from a backup it is the same
// cluster: the same VIPs, also for what was made after the backup, and the other host comes back by itself.
func TestHostsAStoreIsRestoredFromItsBackup(t *testing.T) {
	l := shared.With(t)
	m := &members{t: t, outside: l.Outside()}
	for _, h := range l.Cluster([]string{"r1", "r2"}) {
		m.hosts = append(m.hosts, &host{h, t})
		t.Cleanup(func() { h.KillAgent(syscall.SIGTERM) })
	}
	t.Cleanup(m.clear)
	server, client := m.hosts[0], m.hosts[1]
	server.run("near", "--network mesh -l shoal.service=near -l shoal.publish=8110:8000")
	client.run("far", "--network mesh -l shoal.service=far")
	server.answered(client.web("near"), "near")
	vips := map[string]string{"near": server.vip("near"), "far": server.vip("far")}

	state, secret, file := filepath.Join(server.Dir(), "state"), filepath.Join(server.Dir(), "secret"), filepath.Join(server.Dir(), "backup")
	server.Exec("sh", "-c", "echo correct horse >"+secret)
	backup := func(h *host, file string, args ...string) (string, error) {
		return h.TryShoal(append([]string{"store", "backup", file, "--passphrase-file", secret}, args...)...)
	}
	if out, err := backup(server, file); err != nil || !strings.Contains(out, "bytes") {
		t.Fatalf("backup: %v\n%s", err, out)
	}
	if mode := server.Exec("stat", "-c", "%a", file); strings.TrimSpace(mode) != "600" {
		t.Errorf("the backup has mode %s", mode)
	}
	if _, err := client.TryShoal("store", "backup", file, "--passphrase-file", secret); err == nil || !strings.Contains(err.Error(), "serves the store") {
		t.Errorf("a host without the CA's key: %v", err)
	}
	if _, err := server.TryShoal("store", "backup", file+".none"); code(err) != 2 || !strings.Contains(err.Error(), "--passphrase-file") {
		t.Errorf("without a passphrase: %v", err)
	}

	// What the backup does not know.
	client.run("later", "--network mesh -l shoal.service=later")
	vips["later"] = server.vip("later")

	restore := func(file, secret string) error {
		_, err := server.TryExec("shoal", "store", "restore", file, "--passphrase-file", secret, "--node", server.Name(), "--state-dir", state)
		return err
	}
	if err := restore(file, secret); err == nil || !strings.Contains(err.Error(), "in use by another agent") && !strings.Contains(err.Error(), "is there already") {
		t.Errorf("restore beside the agent: %v", err)
	}
	server.KillAgent(syscall.SIGKILL)
	if err := restore(file, secret); err == nil || !strings.Contains(err.Error(), "move the folder") {
		t.Errorf("restore over what is there: %v", err)
	}
	server.Exec("rm", "-r", state)
	server.Exec("sh", "-c", "head -c 3000 "+file+" >"+file+".part; echo other >"+secret+".other")
	for name, err := range map[string]error{"a part": restore(file+".part", secret), "another passphrase": restore(file, secret+".other")} {
		if err == nil {
			t.Errorf("restored from %s", name)
		}
	}
	if err := restore(file, secret); err != nil {
		t.Fatal(err)
	}
	server.StartAgent()
	lab.AwaitNodes(t, server.Host, client.Host)
	for name, vip := range vips {
		for _, h := range m.hosts {
			lab.Eventually(t, waitLimit, fmt.Sprintf("%s is %s on %s, and answers", name, vip, h.Name()), func() error {
				out, err := h.TryShoal("services")
				if err == nil && !strings.Contains(out, vip) {
					err = fmt.Errorf("it is not among\n%s", out)
				}
				if err == nil {
					_, err = h.get("http://" + vip + ":8000/")
				}
				return err
			})
		}
	}
	client.run("new", "--network mesh -l shoal.service=new")
	server.answered(server.web("new"), "new")
	if out := client.Shoal("nodes"); !strings.Contains(out, "server") {
		t.Errorf("nobody serves the store:\n%s", out)
	}
}
