package socket

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"shoal/lb"
	"shoal/model"
)

// layout is the version of the maps' keys and values. Another one has its maps in
// another folder: the programs of both can stand side by side while one takes
// over from the other.
var layout = "v1"

// Entries of the maps, byte for byte as the programs read and write them. Ports
// and addresses are in network order, the rest in the machine's.

// serviceKey is what a client connects to. The map services has one for each VIP
// frontend; port 0 stands for every port that has none of its own.
type serviceKey struct {
	VIP      [4]byte
	Port     [2]byte
	Protocol uint8
	_        uint8
}

// service is how a task is chosen.
type service struct {
	Frontend uint32  // index of its number of connections in counts
	Filling  uint32  // which slots are its own: a change of them has a new one
	Slots    uint32  // how many; 0: the data plane behind carries it
	Chooser  uint32  // inTurn, byClient
	Affinity uint64  // nanoseconds; 0: none
	Salt     uint32  // of byClient, so that equal clients of two hosts choose apart
	VIP      [4]byte // of the key, again: see [connect]
}

const (
	inTurn   = 0
	byClient = 1
)

type slotKey struct{ Filling, Index uint32 }

// target is where a slot leads. The zero value is none.
type target struct {
	Addr [4]byte
	Port [2]byte // 0: the one that the client connects to
}

func targetOf(a netip.AddrPort) target { return target{a.Addr().As4(), port(a.Port())} }

// slot is a task. VIP and To.Addr are read in one access.
type slot struct {
	VIP [4]byte // whose slot it is
	To  target
	_   [6]byte
}

// backendKey is there for each task that a service with affinity has in its
// slots. Its value is not read.
type backendKey struct {
	Filling uint32
	To      target
	_       [2]byte
}

// clientKey is a client of a service with affinity.
type clientKey struct {
	Frontend uint32
	Source   [4]byte // what the socket is bound to; 0.0.0.0: nothing, as usual
	Netns    uint64  // cookie of its network namespace
}

// kept is the task that a client keeps, until the clock CLOCK_MONOTONIC shows
// that.
type kept struct {
	Addr  [4]byte
	Port  [2]byte // as in the slot
	_     [2]byte
	Until uint64 // nanoseconds
}

// peer is where a socket was led, by its cookie: for its peer's name, and for
// whoever counts or closes connections.
type peer struct {
	VIP      [4]byte
	Task     [4]byte
	VIPPort  [2]byte
	TaskPort [2]byte
	Protocol uint8
	_        [3]byte
}

// vip is what the client connected to.
func (p *peer) vip() netip.AddrPort { return addrPort(p.VIP, p.VIPPort) }

// task is what it is connected to.
func (p *peer) task() netip.AddrPort { return addrPort(p.Task, p.TaskPort) }

func addrPort(a [4]byte, p [2]byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4(a), binary.BigEndian.Uint16(p[:]))
}

func port(n uint16) (p [2]byte) {
	binary.BigEndian.PutUint16(p[:], n)
	return p
}

func keyOf(k lb.Key) serviceKey {
	return serviceKey{VIP: k.VIP.As4(), Port: port(k.Port), Protocol: uint8(k.Protocol)}
}

func (k serviceKey) key() lb.Key {
	return lb.Key{VIP: netip.AddrFrom4(k.VIP), Protocol: model.Protocol(k.Protocol), Port: binary.BigEndian.Uint16(k.Port[:])}
}

// Sizes of the maps. Those of hash tables are limits: memory is taken by the
// entry, 16 to 32 bytes and the kernel's 48 or so each. counts and affinity take
// theirs at once: 1 MB and 6 MB.
var (
	maxServices uint32 = 1 << 17
	maxSlots    uint32 = 1 << 20
	maxClients  uint32 = 1 << 16 // of services with affinity; the one that was idle longest is forgotten
	maxPeers    uint32 = 1 << 20 // open sockets that were led
)

// specs are the maps.
func specs() map[string]*ebpf.MapSpec {
	hash := func(key, value, n uint32) *ebpf.MapSpec {
		return &ebpf.MapSpec{Type: ebpf.Hash, KeySize: key, ValueSize: value, MaxEntries: n, Flags: unix.BPF_F_NO_PREALLOC}
	}
	all := map[string]*ebpf.MapSpec{
		"services": hash(8, 32, maxServices),
		"slots":    hash(8, 16, maxSlots),
		"backends": hash(12, 4, maxSlots),
		"peers":    hash(8, 16, maxPeers),
		"counts":   {Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: maxServices},
		"affinity": {Type: ebpf.LRUHash, KeySize: 16, ValueSize: 16, MaxEntries: maxClients},
	}
	for name, s := range all {
		s.Name = "shoal_" + name
	}
	return all
}

// encode is a service's entry, for a frontend that is served by that number and
// filling.
func (w *wanted) encode(k lb.Key, number, filling uint32) service {
	s := service{Frontend: number, Filling: filling, Slots: uint32(len(w.slots)), Affinity: uint64(w.affinity.Nanoseconds()), Salt: w.salt, VIP: k.VIP.As4()}
	if w.hash {
		s.Chooser = byClient
	}
	return s
}

// decode is what an entry says, but for its slots.
func (s *service) decode() wanted {
	return wanted{hash: s.Chooser == byClient, affinity: time.Duration(s.Affinity), salt: s.Salt}
}
