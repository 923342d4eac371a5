//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
)

// TestWebPage: the page's stream has the cluster, with who talks to whom, for who has the token; shoal ui prints it.
func TestWebPage(t *testing.T) {
	h := on(t, "b")
	t.Cleanup(h.clear)
	h.StartAgent("--ui-addr", "127.0.0.1:7480")
	h.ready()
	t.Cleanup(func() { h.KillAgent(syscall.SIGTERM) })
	h.run("paged-1", "-l shoal.service=paged -l shoal.publish=7481:8000")
	client := h.client()
	h.answered(h.web("paged"), "paged-1")

	at, _, _ := strings.Cut(h.Shoal("ui"), "\n")
	page, token, ok := strings.Cut(at, "#token=")
	if !ok || page != "http://127.0.0.1:7480/" {
		t.Fatalf("shoal ui prints %q", at)
	}
	stream := func(header string) string {
		out, _ := h.TryExec("timeout", "10", "busybox", "wget", "-S", "-qO-", "--header", header, page+"v1/stream")
		return out
	}
	if out := stream("X: y"); strings.Contains(out, "default/paged") {
		t.Errorf("without the token: %s", out)
	}
	load := h.Start(append(client.enter(true), "sh", "-c", "while :; do whoami get "+h.web("paged")+"; done")...)
	outside := h.Start("sh", "-c", "while :; do whoami get http://"+h.Addr().String()+":7481/; done")
	t.Cleanup(func() { load.Signal(syscall.SIGKILL); outside.Signal(syscall.SIGKILL) })
	lab.Eventually(t, waitLimit, "the page has who talks to whom", func() error {
		out := stream("Authorization: Bearer " + token)
		for _, want := range []string{`"default/paged":{"id":"default/paged"`, `"7481/tcp":{"port":7481`, `"paged-1"`, `"container ` + clientName + ` default/paged":{`, `"host b default/paged":{`} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("%s is not in %.6000s", want, out)
			}
		}
		return nil
	})
}
