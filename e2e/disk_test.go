//go:build e2e

package e2e

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
)

// TestAFullDiskStopsTheStoreAndNothingElse: the disk of the state folder is so small that the test can fill it. etcd ends
// then, of itself; the agent goes on, follows its containers, says what is wrong, and has its store back when there is room.
func TestAFullDiskStopsTheStoreAndNothingElse(t *testing.T) {
	h := home(t)
	disk := filepath.Join(h.Dir(), "disk")
	h.Exec("mkdir", "-p", disk)
	h.Exec("mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", disk)
	h.KillAgent(syscall.SIGTERM)
	t.Cleanup(func() {
		h.KillAgent(syscall.SIGTERM)
		h.Exec("umount", disk)
		h.StartAgent()
	})
	h.StartAgent("--state-dir", disk)
	h.ready()
	h.run("first", "-l shoal.service=disk")
	url := h.web("disk")
	h.answered(url, "first")
	h.problem(disk, "disk-nearly-full")
	// What is not on the disk by then is not there after a start either.
	vip := h.vip("disk")
	lab.Eventually(t, waitLimit, "the VIP is remembered on the disk", func() error {
		_, err := h.TryExec("grep", "-q", `"`+vip+`"`, filepath.Join(disk, "cache.jsonl"))
		return err
	})

	ballast := filepath.Join(disk, "ballast")
	if _, err := h.TryExec("dd", "if=/dev/zero", "of="+ballast, "bs=64k"); err == nil {
		t.Fatal("the disk is not full")
	}
	// Whatever is written needs room, and the last that was written needs it once more.
	lab.Eventually(t, waitLimit, "etcd has ended", func() error {
		if _, err := h.TryShoal("token", "create"); err == nil {
			return errors.New("it took a write")
		}
		_, err := h.findProblem("etcd", "store-down")
		return err
	})
	lab.Eventually(t, waitLimit, "the disk is named", func() error {
		p, err := h.findProblem("etcd", "store-down")
		if err == nil && (p.Code != "store-down" || !strings.Contains(p.Reason, "MB free on the disk of "+disk)) {
			err = errors.New(p.Code + ": " + p.Reason)
		}
		return err
	})
	h.answered(url, "first")
	h.pause("first")
	h.refused(url)
	h.Docker("unpause", "first")
	h.answered(url, "first")
	h.run("second", "-l shoal.service=disk")
	h.answered(url, "first", "second")

	// The agent starts without its store as well.
	h.KillAgent(syscall.SIGKILL)
	h.answered(url, "first", "second")
	h.StartAgent("--state-dir", disk)
	h.answered(url, "first", "second")
	h.Docker("stop", "--time", "1", "second")
	h.answered(url, "first")

	h.Exec("rm", ballast)
	h.noProblem("etcd")
	h.run("third", "-l shoal.service=later")
	h.answered(h.web("later"), "third")
	h.answered(url, "first")
}
