package socket

import (
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// code is a program that is being written.
type code struct {
	ins  asm.Instructions
	name string // of the next instruction
	maps *kernelMaps
}

func (c *code) put(ins ...asm.Instruction) {
	if c.name != "" {
		ins[0] = ins[0].WithSymbol(c.name)
		c.name = ""
	}
	c.ins = append(c.ins, ins...)
}

// label gives the next instruction a name to jump to.
func (c *code) label(name string) { c.name = name }

// Registers that helpers leave alone. ctx is the program's context throughout.
const (
	ctx   = asm.R6
	tries = asm.R7
	addr  = asm.R8
	dport = asm.R9
)

// Where things are on the stack, which ends at R10. The verifier wants each
// aligned to its members.
const (
	atKey     = -8   // serviceKey
	atCookie  = -16  // of the socket
	atSlot    = -24  // slotKey
	atService = -56  // service
	atPeer    = -72  // peer
	atClient  = -88  // clientKey
	atKept    = -104 // kept
	atBackend = -124 // backendKey: its address and port are copied at once
	atScratch = -136
)

// Offsets in the context, struct bpf_sock_addr, and in struct bpf_sock
// (include/uapi/linux/bpf.h).
const (
	userIP4    = 4
	userIP6    = 8
	userPort   = 24 // network order, in the lower half
	ofProtocol = 36
	ofSocket   = 64

	socketSource = 24 // src_ip4
	socketState  = 72 // state

	stateEstablished = 1 // of a datagram socket: it is connected (include/net/tcp_states.h)
)

// family is where a hook has the address.
type family struct {
	ipv6 bool
}

// at is the offset of the IPv4 address in the context.
func (f family) at() int16 {
	if f.ipv6 {
		return userIP6 + 12
	}
	return userIP4
}

// onlyMapped leaves, for IPv6, what is not an IPv4 address in an IPv6 socket's
// words: ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).
func (c *code) onlyMapped(f family, other string) {
	if !f.ipv6 {
		return
	}
	c.put(
		asm.LoadMem(asm.R1, ctx, userIP6, asm.Word),
		asm.JNE.Imm(asm.R1, 0, other),
		asm.LoadMem(asm.R1, ctx, userIP6+4, asm.Word),
		asm.JNE.Imm(asm.R1, 0, other),
		asm.LoadMem(asm.R1, ctx, userIP6+8, asm.Word),
		asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.JNE.Imm(asm.R1, 0xffff, other),
	)
}

// copyWords copies 8 bytes at a time to the stack: what a map has may change under
// whoever reads it.
func (c *code) copyWords(to int16, from asm.Register, bytes int16) {
	for i := int16(0); i < bytes; i += 8 {
		c.put(asm.LoadMem(asm.R1, from, i, asm.DWord), asm.StoreMem(asm.R10, to+i, asm.R1, asm.DWord))
	}
}

// move copies one value on the stack.
func (c *code) move(to, from int16, size asm.Size) {
	c.put(asm.LoadMem(asm.R1, asm.R10, from, size), asm.StoreMem(asm.R10, to, asm.R1, size))
}

// lookup leaves in R0 a pointer to the value of the key on the stack, or 0.
func (c *code) lookup(m string, key int16) {
	c.onMap(m, key)
	c.put(asm.FnMapLookupElem.Call())
}

// remove deletes the key on the stack, if it is there.
func (c *code) remove(m string, key int16) {
	c.onMap(m, key)
	c.put(asm.FnMapDeleteElem.Call())
}

// store puts in the key and the value on the stack; R0 is 0 if there was room.
func (c *code) store(m string, key, value int16) {
	c.onMap(m, key)
	c.put(
		asm.Mov.Reg(asm.R3, asm.R10), asm.Add.Imm(asm.R3, int32(value)),
		asm.Mov.Imm(asm.R4, unix.BPF_ANY),
		asm.FnMapUpdateElem.Call(),
	)
}

func (c *code) onMap(m string, key int16) {
	c.put(asm.LoadMapPtr(asm.R1, c.maps.fd(m)), asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, int32(key)))
}

// cookie puts the socket's cookie on the stack.
func (c *code) cookie() {
	c.put(
		asm.Mov.Reg(asm.R1, ctx),
		asm.FnGetSocketCookie.Call(),
		asm.StoreMem(asm.R10, atCookie, asm.R0, asm.DWord),
	)
}

// mix makes every bit of a register depend on every other (the finalizer of
// splitmix64); R1 is lost.
func (c *code) mix(r asm.Register) {
	fold := func(bits int32) {
		c.put(asm.Mov.Reg(asm.R1, r), asm.RSh.Imm(asm.R1, bits), asm.Xor.Reg(r, asm.R1))
	}
	times := func(by uint64) {
		c.put(asm.LoadImm(asm.R1, int64(by), asm.DWord), asm.Mul.Reg(r, asm.R1))
	}
	fold(30)
	times(0xbf58476d1ce4e5b9)
	fold(27)
	times(0x94d049bb133111eb)
	fold(31)
}

// end lets the call go on. Every hook here wants 1 for that.
func (c *code) end(label string) {
	c.label(label)
	c.put(asm.Mov.Imm(asm.R0, 1), asm.Return())
}
