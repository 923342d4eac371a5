package bench

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"shoal/lab/kernel"
)

// The programs of a host's agent see the sockets that were made in the host's control group.
// The bench is one process, so it moves from group to group between bursts. No
// clock runs then, and a socket stays in the group that it was made in.

// enterGroup moves this process into a control group of version 2, given by its folder.
func (b *bench) enterGroup(folder string) {
	if folder == b.group {
		return
	}
	if b.home == "" {
		b.home = b.homeGroup()
	}
	b.must("move into the control group "+folder, os.WriteFile(filepath.Join(folder, "cgroup.procs"), []byte("0"), 0))
	b.group = folder
}

// leaveGroups moves this process back to where it was started.
func (b *bench) leaveGroups() {
	if b.home != "" {
		b.enterGroup(b.home)
	}
}

// homeGroup is the folder of the control group that this process was started in.
func (b *bench) homeGroup() string {
	text, err := os.ReadFile("/proc/self/cgroup")
	b.must("read the own control group", err)
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok { // cgroups(7)
			return filepath.Join(kernel.UnifiedHierarchy(), path)
		}
	}
	b.Fatalf("this process is in no control group of version 2")
	return ""
}

// newGroup makes a control group for this process below another.
func (b *bench) newGroup(below string) string {
	if below == "" {
		b.Fatalf("this kernel has no control groups of version 2 mounted")
	}
	folder := filepath.Join(below, "bench")
	b.must("make a control group", os.MkdirAll(folder, 0o755))
	b.Cleanup(func() {
		b.leaveGroups()
		if err := os.Remove(folder); err != nil {
			b.Logf("remove a control group: %v", err)
		}
	})
	return folder
}

// within has a side make its requests in a control group.
func (b *bench) within(group string, s side) side {
	return func() (times []time.Duration, err error) {
		b.enterGroup(group)
		return s()
	}
}

// mustLead fails the run unless connections by a path go to one of the addresses: led to a task, or to the
// VIP as they are. What getpeername says of a connection that is led is the VIP, so
// the kernel's table is asked.
func (p path) mustLead(to ...netip.Addr) {
	p.must("look where a connection goes", p.do(func() error {
		fd, err := p.dial(requestLimit)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		self, err := unix.Getsockname(fd)
		if err != nil {
			return err
		}
		in, ok := self.(*unix.SockaddrInet4)
		if !ok {
			return fmt.Errorf("a socket with an address of another kind: %v", self)
		}
		got, err := remoteOf(netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port)))
		if err == nil && !slices.Contains(to, got.Addr()) {
			err = fmt.Errorf("a connection to %s goes to %s, not to %v", p.to, got, to)
		}
		return err
	}))
}

// remoteOf is the other end of the calling thread's TCP connection that has this end, in
// the table of its network namespace.
func remoteOf(local netip.AddrPort) (remote netip.AddrPort, err error) {
	table, err := os.Open("/proc/thread-self/net/tcp")
	if err != nil {
		return remote, err
	}
	defer table.Close()
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) > 2 && parseEnd(f[1]) == local {
			return parseEnd(f[2]), nil
		}
	}
	if err := lines.Err(); err != nil {
		return remote, err
	}
	return remote, fmt.Errorf("the kernel's table has no connection from %s", local)
}

// parseEnd reads an end of a connection as /proc/net/tcp has it: an address as the
// machine stores it, and a port, in hexadecimal; invalid: it is none (proc_net_tcp in the kernel's
// documentation).
func parseEnd(text string) netip.AddrPort {
	addr, port, _ := strings.Cut(text, ":")
	a, err := hex.DecodeString(addr)
	p, errPort := hex.DecodeString(port)
	if err != nil || errPort != nil || len(a) != 4 || len(p) != 2 {
		return netip.AddrPort{}
	}
	var network [4]byte
	binary.NativeEndian.PutUint32(network[:], binary.BigEndian.Uint32(a))
	return netip.AddrPortFrom(netip.AddrFrom4(network), binary.BigEndian.Uint16(p))
}
