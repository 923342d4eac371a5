package sockets

import (
	"net"
	"os"
	"strings"
	"testing"

	"shoal/model"
)

// BenchmarkProcesses is one walk through the open files of all processes, whatever it looks for.
func BenchmarkProcesses(b *testing.B) {
	none := map[uint32]bool{0: true}
	for b.Loop() {
		Processes(none)
	}
}

func TestListenersAreFoundWithTheirProcess(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	// A connection from the port is not one that waits for clients on it.
	c, err := net.Dial("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ls, err := Listeners(map[model.Protocol]bool{model.TCP: true})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, l := range ls {
		if l.Addr.Port() == c.LocalAddr().(*net.TCPAddr).AddrPort().Port() {
			t.Errorf("a connected socket was listed: %v", l)
		}
		if l.Addr != at {
			continue
		}
		found = true
		if who := Processes(map[uint32]bool{l.Inode: true})[l.Inode]; !strings.HasPrefix(who, myself(t)) {
			t.Errorf("the process is %q", who)
		}
	}
	if !found {
		t.Errorf("%s is not among %v", at, ls)
	}
}

// myself is how this process is named among those of the host.
func myself(t *testing.T) string {
	t.Helper()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(name)) + " (pid "
}

func TestAListenerOfIPv6AloneIsToldApart(t *testing.T) {
	for network, only := range map[string]bool{"tcp": false, "tcp6": true} {
		l, err := net.Listen(network, "[::]:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ls, err := Listeners(map[model.Protocol]bool{model.TCP: true})
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, have := range ls {
			if have.Addr.Port() == l.Addr().(*net.TCPAddr).AddrPort().Port() {
				found = true
				if have.V6Only != only {
					t.Errorf("%s: IPv6 alone is %t", network, have.V6Only)
				}
			}
		}
		if !found {
			t.Errorf("%s is not among %v", l.Addr(), ls)
		}
	}
}
