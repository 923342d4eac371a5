//go:build e2e

package dockerwatch

import (
	"net"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// The engine is halted, so that only the kernel can tell.
func TestEngineNeedNotTellOfADeath(t *testing.T) {
	h := newHost(t, engineSocket)
	h.run("web", "-l shoal.service=web")
	h.run("api", "-l shoal.service=api")
	h.wants("api:running web:running")
	first, err := strconv.Atoi(h.docker("inspect -f {{.State.Pid}} @web"))
	if err != nil {
		t.Fatal(err)
	}

	engine := enginePid(t)
	signal := func(pid int, s unix.Signal) {
		if err := unix.Kill(pid, s); err != nil {
			t.Errorf("signal %v to process %d: %v", s, pid, err)
		}
	}
	signal(engine, unix.SIGSTOP)
	goOn := sync.OnceFunc(func() { signal(engine, unix.SIGCONT) })
	defer goOn()
	signal(first, unix.SIGKILL)
	h.wants("api:running")

	goOn()
	h.docker("start @web")
	h.wants("api:running web:running")
}

// enginePid is the process that listens on the engine's socket.
func enginePid(t *testing.T) int {
	t.Helper()
	c, err := net.Dial("unix", engineSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		t.Fatal(err)
	}
	if peerErr != nil {
		t.Fatal(peerErr)
	}
	return int(peer.Pid)
}
