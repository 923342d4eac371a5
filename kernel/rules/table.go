package rules

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// To read a table is to run a program, every few seconds and by several
// packages. The kernel can be asked for less: whether the table is still as it
// was.

// fingerprint is that of a table as it is: another one if anything but the
// counters of its rules has changed.
type fingerprint [sha256.Size]byte

// variant is which of the kernel's two facilities iptables writes to.
type variant int

const (
	unknown variant = iota
	legacy          // ip_tables
	nft             // nf_tables
)

// variantOf tells by the program that a path leads to in the end:
// xtables-legacy-multi or xtables-nft-multi.
func variantOf(path string) variant {
	end, err := filepath.EvalSymlinks(path)
	switch name := filepath.Base(end); {
	case err != nil:
		return unknown
	case strings.Contains(name, "legacy"):
		return legacy
	case strings.Contains(name, "nft"):
		return nft
	}
	return unknown
}

// fingerprintOf is the fingerprint of a table. The error says only that it could
// not be had: then the table must be read.
func fingerprintOf(v variant, table string) (fingerprint, error) {
	var b []byte
	var err error
	switch v {
	case legacy:
		b, err = entries(table)
	case nft:
		b, err = generation()
	default:
		err = errors.New("no way is known to ask whether rules have changed")
	}
	if err != nil {
		return fingerprint{}, err
	}
	return sha256.Sum256(b), nil
}

// Of include/uapi/linux/netfilter_ipv4/ip_tables.h, on a 64-bit machine. On any
// other the kernel refuses the lengths.
const (
	soGetInfo    = 64 // IPT_SO_GET_INFO
	soGetEntries = 65 // IPT_SO_GET_ENTRIES

	infoLen    = 84 // struct ipt_getinfo: name, …, num_entries, size
	infoSize   = 80
	headerLen  = 40 // struct ipt_get_entries: name, size, entries
	headerSize = 32

	entryLen      = 112 // struct ipt_entry, without matches and target
	entryNext     = 90  // next_offset, 16 bits: the length of all of it
	entryCounters = 96  // to the end
)

// entries is a table of ip_tables with all counters at zero.
func entries(table string) ([]byte, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	info := make([]byte, infoLen)
	copy(info, table)
	if err := getsockopt(fd, soGetInfo, info); err != nil {
		return nil, fmt.Errorf("ask for the size of table %s: %w", table, err)
	}
	size := info[infoSize:]
	b := make([]byte, headerLen+int(binary.NativeEndian.Uint32(size)))
	copy(b, table)
	copy(b[headerSize:], size)
	if err := getsockopt(fd, soGetEntries, b); err != nil { // EAGAIN: it has just changed
		return nil, fmt.Errorf("ask for the entries of table %s: %w", table, err)
	}
	if err := clearCounters(b[headerLen:]); err != nil {
		return nil, fmt.Errorf("read the entries of table %s: %w", table, err)
	}
	return append(info, b...), nil
}

// clearCounters sets the counters of all entries to zero.
func clearCounters(b []byte) error {
	for len(b) > 0 {
		if len(b) < entryLen {
			return errors.New("entries end within one")
		}
		next := int(binary.NativeEndian.Uint16(b[entryNext:]))
		if next < entryLen || next > len(b) {
			return fmt.Errorf("an entry of %d octets", next)
		}
		clear(b[entryCounters:entryLen])
		b = b[next:]
	}
	return nil
}

func getsockopt(fd, option int, b []byte) error {
	n := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// generation counts the changes of all tables of nf_tables in this namespace
// (NFT_MSG_GETGEN of include/uapi/linux/netfilter/nf_tables.h).
func generation() ([]byte, error) {
	const getGen, genID = 16, 1
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|getGen, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, fmt.Errorf("ask for the generation of nf_tables: %w", err)
	}
	for _, m := range msgs {
		if len(m) < nl.SizeofNfgenmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofNfgenmsg:])
		if err != nil {
			return nil, err
		}
		for _, a := range attrs {
			if a.Attr.Type == genID {
				return a.Value, nil
			}
		}
	}
	return nil, errors.New("nf_tables did not tell its generation")
}

// known are the tables as they were last read, by namespace and table.
var known struct {
	sync.Mutex
	tables map[place]reading
}

type place struct {
	netns uint64 // inode
	table string
}

type reading struct {
	fingerprint fingerprint
	rules       map[string][]string
}

// cachedRead is the table as it was last read in this thread's namespace, if that is
// how it still is; else it is read. What is returned is shared with other
// callers.
func cachedRead(v variant, table string, read func() (map[string][]string, error)) (map[string][]string, error) {
	runtime.LockOSThread() // one namespace throughout
	defer runtime.UnlockOSThread()
	known.Lock()
	defer known.Unlock()
	before, err := fingerprintOf(v, table)
	if err != nil {
		return read()
	}
	var ns unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &ns); err != nil {
		return nil, fmt.Errorf("find the network namespace: %w", err)
	}
	at := place{ns.Ino, table}
	if last, has := known.tables[at]; has && last.fingerprint == before {
		return last.rules, nil
	}
	rules, err := read()
	if err != nil {
		return nil, err
	}
	if after, err := fingerprintOf(v, table); err == nil && after == before {
		if known.tables == nil {
			known.tables = map[place]reading{}
		}
		known.tables[at] = reading{before, rules}
	}
	return rules, nil
}
