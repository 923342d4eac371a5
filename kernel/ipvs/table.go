package ipvs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unique"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The whole table is read by socket options (include/uapi/linux/ip_vs.h), the
// older of the kernel's two interfaces: one call for all services and one for
// the destinations of each. Netlink takes a dump of several calls for each
// service. And /proc/net/ip_vs, which has all in one file, leaves services out
// where other network namespaces have some too: it is read a page at a time,
// and where a page begins is counted with theirs but looked up without (tried on
// Linux 6.1: as many are missing as the others have).
const (
	getInfo     = 64 + 1024 + 64 + 1 // IP_VS_SO_GET_INFO
	getServices = getInfo + 1        // IP_VS_SO_GET_SERVICES
	getDests    = getInfo + 3        // IP_VS_SO_GET_DESTS
)

// ErrNotExist is the error of a service that is not there.
var ErrNotExist = errors.New("no such virtual service")

// struct ip_vs_getinfo
type infoEntry struct{ version, size, services uint32 }

// struct ip_vs_stats_user
type statsEntry struct {
	conns, inPackets, outPackets uint32
	inBytes, outBytes            uint64
	_                            [5]uint32 // rates
}

// struct ip_vs_service_entry
type serviceEntry struct {
	_, _, _                          uint32 // protocol, address and port of a service without a mark
	mark                             uint32
	scheduler                        [16]byte
	flags, timeout, netmask, numDest uint32
	stats                            statsEntry
}

// struct ip_vs_dest_entry
type destEntry struct {
	addr                [4]byte
	port                [2]byte // network order
	_                   [2]byte
	flags               uint32
	weight              int32
	_, _                uint32 // thresholds
	active, inactive, _ uint32 // the last: templates of affinity
	stats               statsEntry
}

// The heads of struct ip_vs_get_services and struct ip_vs_get_dests, with the
// padding in front of the entries.
type servicesHead struct{ n, _ uint32 }
type destsHead struct{ _, _, _, mark, n, _ uint32 }

// option reads one socket option into what p points to.
func (h *Handle) option(name int, p unsafe.Pointer, size uintptr) error {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(h.fd), unix.IPPROTO_IP, uintptr(name),
		uintptr(p), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// Count reads how many IPv4 services the namespace has, those without a mark
// included: one system call that takes as long for any number.
func (h *Handle) Count() (int, error) {
	var info infoEntry
	if err := h.option(getInfo, unsafe.Pointer(&info), unsafe.Sizeof(info)); err != nil {
		return 0, fmt.Errorf("read IPVS: %w", err)
	}
	return int(info.services), nil
}

// services reads all services of the namespace.
func (h *Handle) services() ([]serviceEntry, error) {
	count, err := h.Count()
	if err != nil || count == 0 {
		return nil, err
	}
	const head, size = unsafe.Sizeof(servicesHead{}), unsafe.Sizeof(serviceEntry{})
	buf := make([]uint64, (head+uintptr(count)*size)/8) // aligned
	at := unsafe.Pointer(unsafe.SliceData(buf))
	(*servicesHead)(at).n = uint32(count)
	if err := h.option(getServices, at, uintptr(len(buf))*8); err != nil {
		return nil, fmt.Errorf("read the services of IPVS: %w", err)
	}
	n := min((*servicesHead)(at).n, uint32(count))
	return unsafe.Slice((*serviceEntry)(unsafe.Add(at, head)), n), nil
}

// dests reads the destinations of a service that has that many.
func (h *Handle) dests(mark, n uint32) (map[netip.AddrPort]Dest, error) {
	const head, size = unsafe.Sizeof(destsHead{}), unsafe.Sizeof(destEntry{})
	found := make(map[netip.AddrPort]Dest, n)
	if n == 0 {
		return found, nil
	}
	buf := make([]uint64, (head+uintptr(n)*size)/8)
	at := unsafe.Pointer(unsafe.SliceData(buf))
	*(*destsHead)(at) = destsHead{mark: mark, n: n}
	err := h.option(getDests, at, uintptr(len(buf))*8)
	if errors.Is(err, unix.ESRCH) {
		err = ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read the destinations of virtual service %#x: %w", mark, err)
	}
	for _, d := range unsafe.Slice((*destEntry)(unsafe.Add(at, head)), n) {
		if d.addr == [4]byte{} {
			break // it had fewer by now
		}
		addr := netip.AddrPortFrom(netip.AddrFrom4(d.addr), binary.BigEndian.Uint16(d.port[:]))
		found[addr] = Dest{Weight: int(d.weight), Active: int(d.active), Inactive: int(d.inactive)}
	}
	return found, nil
}

// Found is a service as the kernel has it, without its destinations. Its
// scheduler is as in [Virtual].
type Found struct {
	Service
	Destinations int // how many it has
}

// Services reads all services that have a mark, by mark, and how many there are
// with those that have none: one system call, however many there are.
func (h *Handle) Services() (found map[uint32]Found, count int, err error) {
	entries, err := h.services()
	if err != nil {
		return nil, 0, err
	}
	found = make(map[uint32]Found, len(entries))
	for i := range entries {
		if e := &entries[i]; e.mark != 0 {
			found[e.mark] = Found{e.service(), int(e.numDest)}
		}
	}
	return found, len(entries), nil
}

// ReadDestinations reads those of one service, n at the most: one system call.
// It is [ErrNotExist] if there is no such service.
func (h *Handle) ReadDestinations(mark uint32, n int) (map[netip.AddrPort]Dest, error) {
	return h.dests(mark, uint32(n))
}

// Table reads all services that have a mark with their destinations, by mark.
func (h *Handle) Table() (map[uint32]*Virtual, error) {
	found, _, err := h.Services()
	if err != nil {
		return nil, err
	}
	table := make(map[uint32]*Virtual, len(found))
	for mark, s := range found {
		dests, err := h.ReadDestinations(mark, s.Destinations)
		if errors.Is(err, ErrNotExist) {
			continue // gone since
		}
		if err != nil {
			return nil, err
		}
		table[mark] = &Virtual{Service: s.Service, Dests: dests}
	}
	return table, nil
}

func (e *serviceEntry) service() Service {
	s := Service{Mark: e.mark, Scheduler: intern(e.scheduler[:])}
	if e.flags&flagPersistent != 0 {
		s.Affinity = e.timeout
	}
	// A service that somebody made with other flags is not the one wanted.
	if other := e.flags &^ (flagPersistent | flagHashed); other != SchedulerFlags(s.Scheduler) {
		s.Scheduler = fmt.Sprintf("%s (flags %#x)", s.Scheduler, other)
	}
	return s
}

// Stats reads the counters of all services that have a mark. The kernel brings
// them up to date every two seconds.
func (h *Handle) Stats() (map[uint32]Stats, error) {
	entries, err := h.services()
	if err != nil {
		return nil, err
	}
	stats := make(map[uint32]Stats, len(entries))
	for i := range entries {
		if e := &entries[i]; e.mark != 0 {
			stats[e.mark] = Stats{e.stats.conns, e.stats.inPackets, e.stats.outPackets, e.stats.inBytes, e.stats.outBytes}
		}
	}
	return stats, nil
}

// intern gives one string for each scheduler, however many services use it.
func intern(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return unique.Make(string(b)).Value()
}
