package socket

import "github.com/cilium/ebpf/asm"

// Programs by which a socket that was led seems to be where its client wanted
// it: it is found by its cookie.

const (
	protoTCP = 6
	protoUDP = 17
)

// peerOf finds where the socket was led, and copies it; one that was not is left
// alone.
func (c *code) peerOf() {
	c.cookie()
	c.lookup("peers", atCookie)
	c.put(asm.JEq.Imm(asm.R0, 0, "leave"))
	c.copyWords(atPeer, asm.R0, 16)
}

// named is the program of getpeername(), and of recvmsg() for datagrams: it puts
// the VIP in the place of the task's address.
func (c *code) named(f family) {
	c.put(asm.Mov.Reg(ctx, asm.R1))
	c.onlyMapped(f, "leave")
	c.peerOf()
	c.replace(f, atPeer+4, atPeer+10, atPeer, atPeer+8)
	c.end("leave")
}

// sent is the program of sendmsg(), for datagrams to an address that the call
// names: a socket that is connected to a VIP, and sends there by name, means the
// same task. What an IPv6 socket sends to an IPv4-mapped address the kernel
// passes on as IPv4 before it looks for a program (udpv6_sendmsg() in
// net/ipv6/udp.c), so this one sees it too.
func (c *code) sent(f family) {
	c.put(asm.Mov.Reg(ctx, asm.R1))
	c.peerOf()
	c.put(
		asm.LoadMem(asm.R1, asm.R10, atPeer+12, asm.Byte),
		asm.JNE.Imm(asm.R1, protoUDP, "leave"),
	)
	c.replace(f, atPeer, atPeer+8, atPeer+4, atPeer+10)
	c.end("leave")
}

// replace puts one address and port, on the stack, in the place of another in
// the context, and leaves any other.
func (c *code) replace(f family, oldAddr, oldPort, newAddr, newPort int16) {
	c.put(
		asm.LoadMem(asm.R1, ctx, f.at(), asm.Word),
		asm.LoadMem(asm.R2, asm.R10, oldAddr, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, "leave"),
		asm.LoadMem(asm.R1, ctx, userPort, asm.Word),
		asm.LoadMem(asm.R2, asm.R10, oldPort, asm.Half),
		asm.JNE.Reg(asm.R1, asm.R2, "leave"),
		asm.LoadMem(asm.R1, asm.R10, newAddr, asm.Word),
		asm.StoreMem(ctx, f.at(), asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R10, newPort, asm.Half),
		asm.StoreMem(ctx, userPort, asm.R1, asm.Word),
	)
}

// released is the program of a socket's end: nothing is remembered of it.
func (c *code) released(family) {
	c.put(asm.Mov.Reg(ctx, asm.R1))
	c.cookie()
	c.remove("peers", atCookie)
	c.end("leave")
}
