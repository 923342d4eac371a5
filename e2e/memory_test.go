//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestTheAgentKeepsWithinTheMemoryOfItsControlGroup: Go's collector of the agent is told of a part of what its control group may have.
func TestTheAgentKeepsWithinTheMemoryOfItsControlGroup(t *testing.T) {
	h := on(t, "limited")
	const limit = 1 << 30 // bytes: in its group are its store too, what both have read of files, and maps of the kernel
	group := "limited-" + filepath.Base(filepath.Dir(h.Dir()))
	begins := `#!/bin/sh -e
if [ -d /sys/fs/cgroup/memory ]; then
	group=/sys/fs/cgroup/memory/` + group + ` bound=memory.limit_in_bytes
else
	group=$(sed -n 's,^0::,/sys/fs/cgroup,p' /proc/self/cgroup)-` + group + ` bound=memory.max
fi
mkdir -p $group
echo ` + fmt.Sprint(limit) + ` >$group/$bound
echo $$ >$group/cgroup.procs
exec shoal "$@"
`
	script := filepath.Join(h.Dir(), "limited.sh")
	if err := os.WriteFile(script, []byte(begins), 0o700); err != nil {
		t.Fatal(err)
	}
	h.Program(script)
	t.Cleanup(func() {
		h.KillAgent(syscall.SIGTERM)
		h.Program("")
		h.Exec("sh", "-c", "rmdir /sys/fs/cgroup/memory/"+group+" || rmdir /sys/fs/cgroup$(sed -n s,^0::,,p /proc/self/cgroup)-"+group)
	})
	h.StartAgent()
	h.ready()
	// What else it needs than Go's heap, and its store, have the rest: see shoal/internal/memory.
	const share = 0.6
	if got := h.metrics()["go_gc_gomemlimit_bytes"]; got < 0.99*share*limit || got > share*limit {
		t.Errorf("with a limit of %d bytes Go's is %.0f, want %.0f", limit, got, share*limit)
	}
}
