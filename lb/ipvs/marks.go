package ipvs

import (
	"shoal/lb"
	"shoal/model"
)

// marker tells the marks of the frontends in one network namespace. A
// frontend's mark is that of its virtual service, and its packets are given it.
type marker interface {
	of(k lb.Key) (mark uint32, has bool)      // 0 if it has none
	get(k lb.Key) (mark uint32, left bool)    // a new one if it has none
	key(mark uint32) (k lb.Key, known bool)   // whose it is
	adopt(k lb.Key, mark uint32)              // takes over what a set of the kernel has
	reserve(mark uint32) (known bool)         // keeps that of a service in the kernel from being given out
	free(k lb.Key)                            // gives it back
	release(mark uint32)                      // likewise, of a service that no frontend has
	entry(mark uint32, live bool) (in uint32) // what the frontend's set has for it; 0: nothing
}

// A mark of the host's namespace is 0x53, the bit noNewConns, and 23 bits of number. Nothing
// else may use 0x53…: the filter chain lets in whatever carries such a mark.
const (
	marksOf    uint32 = 0x53000000 // of every mark of ours, under ownMask
	ownMask    uint32 = 0xff000000
	noNewConns uint32 = 0x00800000 // no new connections
	liveMask   uint32 = ownMask | noNewConns
	maxMarks   uint32 = noNewConns - 1
)

func ours(mark uint32) bool { return mark&ownMask == marksOf }

// marks gives each frontend of a VIP a mark. Numbers go up, round the whole
// range, so that a freed one is not soon another's, and so that neighbours spread
// evenly over the kernel's table of services, which is hashed by the low eight
// bits.
type marks struct {
	taken  map[lb.Key]uint32 // without noNewConns
	owners map[uint32]lb.Key // the zero Key: a service in the kernel whose frontend is not known
	last   uint32            // the number given last
}

func newMarks() *marks { return &marks{taken: map[lb.Key]uint32{}, owners: map[uint32]lb.Key{}} }

func (m *marks) of(k lb.Key) (mark uint32, has bool) {
	mark, has = m.taken[k]
	return mark, has
}

func (m *marks) key(mark uint32) (k lb.Key, known bool) {
	k = m.owners[mark]
	return k, k != lb.Key{}
}

// adopt does nothing if the frontend has another mark already or the mark
// another frontend.
func (m *marks) adopt(k lb.Key, mark uint32) {
	mark &^= noNewConns
	if _, has := m.taken[k]; has || !ours(mark) || m.owners[mark] != (lb.Key{}) {
		return
	}
	m.taken[k], m.owners[mark] = mark, k
	m.last = max(m.last, mark&maxMarks)
}

func (m *marks) reserve(mark uint32) (known bool) {
	k := m.owners[mark]
	m.owners[mark] = k
	m.last = max(m.last, mark&maxMarks)
	return k != lb.Key{}
}

func (m *marks) get(k lb.Key) (uint32, bool) {
	if mark, has := m.taken[k]; has {
		return mark, true
	}
	for range maxMarks {
		m.last = m.last%maxMarks + 1
		mark := marksOf | m.last
		if _, taken := m.owners[mark]; !taken {
			m.taken[k], m.owners[mark] = mark, k
			return mark, true
		}
	}
	return 0, false
}

func (m *marks) free(k lb.Key) {
	delete(m.owners, m.taken[k])
	delete(m.taken, k)
}

// release gives back a mark that no frontend has.
func (m *marks) release(mark uint32) {
	if m.owners[mark] == (lb.Key{}) {
		delete(m.owners, mark)
	}
}

// entry of a frontend that takes no new connections has the bit noNewConns: those
// that it holds are let in.
func (m *marks) entry(mark uint32, live bool) uint32 {
	if live {
		return mark
	}
	return mark | noNewConns
}

// portMarks are the marks of published ports in the sandbox: the port itself and
// its protocol, so that nothing has to be remembered. Ports that follow each other
// spread evenly over the kernel's table of services, too.
type portMarks struct{}

func (portMarks) of(k lb.Key) (uint32, bool)    { return uint32(k.Protocol)<<16 | uint32(k.Port), true }
func (m portMarks) get(k lb.Key) (uint32, bool) { return m.of(k) }
func (portMarks) key(mark uint32) (lb.Key, bool) {
	return lb.Key{Protocol: model.Protocol(mark >> 16), Port: uint16(mark)}, mark>>24 == 0
}
func (portMarks) adopt(lb.Key, uint32) {}
func (m portMarks) reserve(mark uint32) bool {
	_, known := m.key(mark)
	return known
}
func (portMarks) free(lb.Key)    {}
func (portMarks) release(uint32) {}

// entry is none of a port that takes no new connections: it refuses them, and
// IPVS finds those that it holds before it asks for a mark.
func (portMarks) entry(mark uint32, live bool) uint32 {
	if live {
		return mark
	}
	return 0
}
