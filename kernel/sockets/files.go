package sockets

import (
	"context"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// filesAtATime is how many open files of a process are listed at a time. A process may
// have as many as its limit allows, millions of them: the memory that a walk takes must
// not grow with that.
const filesAtATime = 1024

// openSockets calls visit for each open file of a process that is a socket with one of
// the inodes, until visit returns false or ctx ends. visit may take inodes out. A process
// that has ended, or may not be looked at, has no open files. Reading their names waits
// for nobody: neither for their file systems nor for the process.
func openSockets(ctx context.Context, pid int, inodes map[uint32]bool, visit func(file int, inode uint32) (more bool)) {
	folder, err := os.Open("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		return
	}
	defer folder.Close()
	link := make([]byte, 64) // longer than the link of any socket
	for ctx.Err() == nil {
		names, err := folder.Readdirnames(filesAtATime)
		for _, name := range names {
			n, failed := unix.Readlinkat(int(folder.Fd()), name, link)
			if failed != nil {
				continue
			}
			inode, ok := inodeOf(string(link[:n]))
			file, failed := strconv.Atoi(name)
			if !ok || !inodes[inode] || failed != nil {
				continue
			}
			if !visit(file, inode) {
				return
			}
		}
		if err != nil || len(names) == 0 {
			return
		}
	}
}

// inodeOf is that of a socket, by the text of a link in /proc/PID/fd.
func inodeOf(link string) (inode uint32, ok bool) {
	number, is := strings.CutPrefix(link, "socket:[")
	if !is {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
	if err != nil {
		return 0, false
	}
	return uint32(n), true
}
