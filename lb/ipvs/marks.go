package ipvs

// A mark is 0x53, the bit parked, and 23 bits of number. Nothing else may use
// 0x53…: the filter chain lets in whatever carries such a mark.
const (
	marksOf  uint32 = 0x53000000 // of every mark of ours, under marksMask
	ownMask  uint32 = 0xff000000
	parked   uint32 = 0x00800000 // no new connections
	liveMask uint32 = ownMask | parked
	maxMarks uint32 = parked - 1
)

func ours(mark uint32) bool { return mark&ownMask == marksOf }

// marks gives each front a mark. Numbers go up, round the whole range, so that
// a freed one is not soon another's, and so that neighbours spread evenly over
// the kernel's table of services, which is hashed by the low eight bits.
type marks struct {
	of    map[front]uint32 // without parked
	taken map[uint32]front // by whom; the zero front: a service in the kernel whose front is not known
	last  uint32           // the number given last
}

func newMarks() *marks { return &marks{of: map[front]uint32{}, taken: map[uint32]front{}} }

// adopt takes over what the kernel has for a front, unless the front has
// another mark already or the mark another front.
func (m *marks) adopt(f front, mark uint32) {
	mark &^= parked
	if _, has := m.of[f]; has || !ours(mark) || m.taken[mark] != (front{}) {
		return
	}
	m.of[f], m.taken[mark] = mark, f
	m.last = max(m.last, mark&maxMarks)
}

// reserve keeps a mark from being given out. It tells whether a front has it.
func (m *marks) reserve(mark uint32) (known bool) {
	f := m.taken[mark]
	m.taken[mark] = f
	m.last = max(m.last, mark&maxMarks)
	return f != front{}
}

// get is the front's mark, a new one if it has none; false if none is left.
func (m *marks) get(f front) (uint32, bool) {
	if mark, has := m.of[f]; has {
		return mark, true
	}
	for range maxMarks {
		m.last = m.last%maxMarks + 1
		mark := marksOf | m.last
		if _, taken := m.taken[mark]; !taken {
			m.of[f], m.taken[mark] = mark, f
			return mark, true
		}
	}
	return 0, false
}

// free gives the front's mark back.
func (m *marks) free(f front) {
	delete(m.taken, m.of[f])
	delete(m.of, f)
}
