package socket

import "github.com/cilium/ebpf/asm"

// connect is the program of connect(): it puts a task's address in the place of
// the VIP that the client names. What it does not lead goes on as it is, through
// the data plane behind.
//
// A map's entry that is deleted while a program looks at it may be used again at
// once for another (hash tables without preallocation, from Linux 6.1 on, and LRU
// ones always). So what is read is copied, and then checked to be of this VIP: a
// slot's VIP is read in one access with the task's address, and a kept task has
// to be among the backends of this filling. Where something does not fit, or a
// slot is gone as the agent has just replaced all, the service is looked up once
// more.
//
// The turn is the number of connections so far, read and then added to: two
// processors that connect at the same moment may take the same slot.
// BPF_ATOMIC's fetch would prevent that, and needs Linux 5.12.
func (c *code) connect(f family) {
	c.put(asm.Mov.Reg(ctx, asm.R1))
	// A socket that connects anew is not where it was any more, whatever it connects to.
	c.cookie()
	c.remove("peers", atCookie)
	c.onlyMapped(f, "leave")
	c.destination(f)
	// Before Linux 6.4 the verifier wants set what keep reads, whether or not it does.
	c.put(
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R10, atClient, asm.R1, asm.DWord),
		asm.StoreMem(asm.R10, atClient+8, asm.R1, asm.DWord),
	)
	c.put(asm.Mov.Imm(tries, 2))
	c.label("again")
	c.service()
	c.put(
		asm.LoadMem(asm.R1, asm.R10, atService+16, asm.DWord), // affinity
		asm.LoadMem(asm.R2, asm.R10, atService+12, asm.Word),  // chooser
		asm.Or.Reg(asm.R1, asm.R2),
		asm.JEq.Imm(asm.R1, 0, "turn"),
	)
	c.client()
	c.keptTask()
	c.slot()
	c.label("chosen")
	c.keep()
	c.lead(f)
	c.end("leave")

	c.put(
		asm.Sub.Imm(tries, 1).WithSymbol("retry"),
		asm.JNE.Imm(tries, 0, "again"),
		asm.Ja.Label("leave"),
	)
}

// destination reads where the client wants to go, if that is by TCP or UDP: as
// a key of services, and as the first part of a peer.
func (c *code) destination(f family) {
	c.put(
		asm.LoadMem(asm.R2, ctx, ofProtocol, asm.Word),
		asm.JEq.Imm(asm.R2, protoTCP, "balanced"),
		asm.JNE.Imm(asm.R2, protoUDP, "leave"),
		asm.LoadMem(asm.R1, ctx, f.at(), asm.Word).WithSymbol("balanced"),
		asm.StoreMem(asm.R10, atKey, asm.R1, asm.Word),
		asm.StoreMem(asm.R10, atPeer, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, ctx, userPort, asm.Word),
		asm.StoreMem(asm.R10, atKey+4, asm.R1, asm.Half),
		asm.StoreMem(asm.R10, atPeer+8, asm.R1, asm.Half),
		asm.StoreImm(asm.R10, atKey+7, 0, asm.Byte),
		asm.StoreMem(asm.R10, atKey+6, asm.R2, asm.Byte),
		asm.StoreImm(asm.R10, atPeer+12, 0, asm.Word),
		asm.StoreMem(asm.R10, atPeer+12, asm.R2, asm.Byte),
	)
}

// service finds the service, by port and then for every port, and copies it.
func (c *code) service() {
	c.lookup("services", atKey)
	c.put(
		asm.JNE.Imm(asm.R0, 0, "service"),
		asm.StoreImm(asm.R10, atKey+4, 0, asm.Half),
	)
	c.lookup("services", atKey)
	c.put(asm.JEq.Imm(asm.R0, 0, "leave"))
	c.label("service")
	c.copyWords(atService, asm.R0, 32)
	c.move(atKey+4, atPeer+8, asm.Half)
	c.put(
		asm.LoadMem(asm.R1, asm.R10, atService+28, asm.Word),
		asm.LoadMem(asm.R2, asm.R10, atKey, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, "retry"),
		asm.LoadMem(asm.R1, asm.R10, atService+8, asm.Word),
		asm.JEq.Imm(asm.R1, 0, "leave"), // no slots
	)
}

// client tells who connects: there is no source address yet, unless the socket
// is bound to one. A datagram socket that is connected already has one in any case, which
// as a rule the kernel chose: it is the client that it was when it first connected.
func (c *code) client() {
	c.move(atClient, atService, asm.Word) // frontend
	c.put(
		asm.LoadMem(asm.R2, ctx, ofSocket, asm.DWord),
		asm.Mov.Imm(asm.R1, 0),
		asm.LoadMem(asm.R3, asm.R2, socketState, asm.Word),
		asm.JEq.Imm(asm.R3, stateEstablished, "source"),
		asm.LoadMem(asm.R1, asm.R2, socketSource, asm.Word),
		asm.StoreMem(asm.R10, atClient+4, asm.R1, asm.Word).WithSymbol("source"),
		asm.Mov.Reg(asm.R1, ctx),
		asm.FnGetNetnsCookie.Call(),
		asm.StoreMem(asm.R10, atClient+8, asm.R0, asm.DWord),
	)
}

// keptTask takes the task that the client keeps, if it keeps one that is in
// rotation.
func (c *code) keptTask() {
	c.put(
		asm.LoadMem(asm.R1, asm.R10, atService+16, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "choose"),
	)
	c.lookup("affinity", atClient)
	c.put(asm.JEq.Imm(asm.R0, 0, "choose"))
	c.copyWords(atKept, asm.R0, 16)
	c.put(
		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(asm.R1, asm.R10, atKept+8, asm.DWord),
		asm.JGT.Reg(asm.R0, asm.R1, "choose"),
	)
	c.move(atBackend, atService+4, asm.Word) // filling
	c.move(atBackend+4, atKept, asm.DWord)   // address, port, and two zeros
	c.lookup("backends", atBackend)
	c.put(
		asm.JEq.Imm(asm.R0, 0, "choose"),
		asm.LoadMem(addr, asm.R10, atKept, asm.Word),
		asm.LoadMem(dport, asm.R10, atKept+4, asm.Half),
		asm.Ja.Label("chosen"),
	)
}

// slot chooses one of the service's slots, in turn or by a hash of the client.
func (c *code) slot() {
	c.label("choose")
	c.put(
		asm.LoadMem(asm.R1, asm.R10, atService+12, asm.Word),
		asm.JEq.Imm(asm.R1, inTurn, "turn"),
		asm.LoadMem(addr, asm.R10, atClient+8, asm.DWord),
		asm.LoadMem(asm.R1, asm.R10, atClient+4, asm.Word),
		asm.LoadMem(asm.R2, asm.R10, atService+24, asm.Word), // salt
		asm.Xor.Reg(asm.R1, asm.R2),
		asm.LSh.Imm(asm.R1, 32),
		asm.Xor.Reg(addr, asm.R1),
	)
	c.mix(addr)
	c.put(asm.Ja.Label("index"))
	c.label("turn")
	c.lookup("counts", atService)
	c.put(
		asm.JEq.Imm(asm.R0, 0, "leave"),
		asm.LoadMem(addr, asm.R0, 0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R10, atService+8, asm.Word).WithSymbol("index"),
		asm.Mod.Reg(addr, asm.R1),
		asm.StoreMem(asm.R10, atSlot+4, addr, asm.Word),
	)
	c.move(atSlot, atService+4, asm.Word) // filling
	c.lookup("slots", atSlot)
	c.put(
		asm.JEq.Imm(asm.R0, 0, "retry"),
		asm.LoadMem(dport, asm.R0, 8, asm.Half),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), // VIP and address
		asm.StoreMem(asm.R10, atScratch, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.R10, atScratch, asm.Word),
		asm.LoadMem(asm.R2, asm.R10, atKey, asm.Word),
		asm.JNE.Reg(asm.R1, asm.R2, "retry"),
		asm.LoadMem(addr, asm.R10, atScratch+4, asm.Word),
	)
}

// keep has the client keep the task, if the service has affinity: from now on as
// long as that says.
func (c *code) keep() {
	c.put(
		asm.LoadMem(asm.R1, asm.R10, atService+16, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, "lead"),
		asm.StoreMem(asm.R10, atKept, addr, asm.Word),
		asm.StoreImm(asm.R10, atKept+4, 0, asm.Word),
		asm.StoreMem(asm.R10, atKept+4, dport, asm.Half),
		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(asm.R1, asm.R10, atService+16, asm.DWord),
		asm.Add.Reg(asm.R0, asm.R1),
		asm.StoreMem(asm.R10, atKept+8, asm.R0, asm.DWord),
	)
	c.store("affinity", atClient, atKept)
	c.label("lead")
}

// lead remembers where the socket is led, counts it, and rewrites the address. A
// socket that there is no room to remember is not led.
func (c *code) lead(f family) {
	c.put(
		asm.JNE.Imm(dport, 0, "mapped"),
		asm.LoadMem(dport, asm.R10, atPeer+8, asm.Half),
		asm.StoreMem(asm.R10, atPeer+4, addr, asm.Word).WithSymbol("mapped"),
		asm.StoreMem(asm.R10, atPeer+10, dport, asm.Half),
	)
	c.store("peers", atCookie, atPeer)
	c.put(asm.JNE.Imm(asm.R0, 0, "leave"))
	c.lookup("counts", atService)
	c.put(
		asm.JEq.Imm(asm.R0, 0, "counted"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.StoreMem(ctx, f.at(), addr, asm.Word).WithSymbol("counted"),
		asm.StoreMem(ctx, userPort, dport, asm.Word),
	)
}
