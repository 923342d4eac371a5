package conformance

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

// Where the kernel has SCTP sockets, connections are made. Where it has none, it
// may balance SCTP all the same: then the first two packets of an association go
// by raw sockets.

// serveSCTP answers as serve does.
func (n *namespace) serveSCTP(t *testing.T, port uint16) (stop func()) {
	t.Helper()
	if !hasSCTP() {
		var c net.PacketConn
		n.must(t, func() (err error) { c, err = net.ListenPacket("ip4:sctp", "0.0.0.0"); return err })
		go n.answerINITs(c, port)
		return func() { c.Close() }
	}
	var l net.Listener
	n.must(t, func() (err error) { l, err = listenSCTP(port); return err })
	go n.answerConnections(l, port)
	return func() { l.Close() }
}

// askSCTP makes one association.
func (n *namespace) askSCTP(to netip.AddrPort) (a answer, err error) {
	err = n.do(func() error {
		if !hasSCTP() {
			a, err = sendINIT(to)
			return err
		}
		nc, err := dialSCTP(to)
		if err != nil {
			return err
		}
		defer nc.Close()
		c := conn{Conn: nc, r: bufio.NewReader(nc)}
		err = c.hear(waitLimit)
		a = c.answer
		return err
	})
	return a, err
}

// Go's net package makes no SCTP sockets, but takes them: with one stream they
// are used like TCP's (RFC 6458, section 4).

func socketSCTP() (*os.File, int, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, syscall.IPPROTO_SCTP)
	if err != nil {
		return nil, 0, os.NewSyscallError("SCTP socket", err)
	}
	return os.NewFile(uintptr(fd), "sctp"), fd, nil
}

func hasSCTP() bool {
	f, _, err := socketSCTP()
	if err == nil {
		f.Close()
	}
	return err == nil
}

func listenSCTP(port uint16) (net.Listener, error) {
	f, fd, err := socketSCTP()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(port)}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if err := syscall.Listen(fd, 5); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	return net.FileListener(f)
}

func dialSCTP(to netip.AddrPort) (net.Conn, error) {
	f, fd, err := socketSCTP()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// A connect that nobody answers would wait for minutes.
	limit := syscall.NsecToTimeval(int64(waitLimit))
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &limit); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(f)
}

// What is used of RFC 9260: a common header (section 3.1) and the chunks INIT
// and INIT ACK (3.3.2, 3.3.3), the latter with a state cookie, which here holds
// the answer.
const (
	chunkINIT    = 1
	chunkINITACK = 2
	paramCookie  = 7

	headerLen = 12
	initLen   = 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type sctpPacket struct {
	from, to uint16
	tag      uint32 // verification tag
	chunk    byte
	initiate uint32 // tag that the answers must have
	cookie   string
}

func (p *sctpPacket) marshal() []byte {
	be := binary.BigEndian
	b := be.AppendUint16(nil, p.from)
	b = be.AppendUint16(b, p.to)
	b = be.AppendUint32(b, p.tag)
	b = append(b, 0, 0, 0, 0) // checksum
	length := initLen
	cookie := p.cookie
	for len(cookie)%4 != 0 {
		cookie += "\n"
	}
	if cookie != "" {
		length += 4 + len(cookie)
	}
	b = be.AppendUint16(append(b, p.chunk, 0), uint16(length))
	b = be.AppendUint32(b, p.initiate)
	b = be.AppendUint32(b, 65536) // window
	b = be.AppendUint16(b, 1)     // streams out
	b = be.AppendUint16(b, 1)     // and in
	b = be.AppendUint32(b, p.initiate)
	if cookie != "" {
		b = be.AppendUint16(be.AppendUint16(b, paramCookie), uint16(4+len(cookie)))
		b = append(b, cookie...)
	}
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}

func parseSCTP(b []byte) (p sctpPacket, err error) {
	if len(b) < headerLen+initLen {
		return p, io.ErrUnexpectedEOF
	}
	sum := binary.LittleEndian.Uint32(b[8:])
	clear(b[8:12])
	if sum != crc32.Checksum(b, castagnoli) {
		return p, errors.New("wrong checksum")
	}
	be := binary.BigEndian
	p = sctpPacket{from: be.Uint16(b), to: be.Uint16(b[2:]), tag: be.Uint32(b[4:]), chunk: b[headerLen], initiate: be.Uint32(b[headerLen+4:])}
	if len(b) > headerLen+initLen+4 {
		p.cookie = string(b[headerLen+initLen+4:])
	}
	return p, nil
}

func (n *namespace) answerINITs(c net.PacketConn, port uint16) {
	b := make([]byte, 2000)
	for {
		k, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		if p, err := parseSCTP(b[:k]); err == nil && p.chunk == chunkINIT && p.to == port {
			r := sctpPacket{from: port, to: p.from, tag: p.initiate, chunk: chunkINITACK, initiate: 1, cookie: fmt.Sprintf("%s %s %d\n", n.name, from, port)}
			c.WriteTo(r.marshal(), from)
		}
	}
}

// sendINIT acts in the namespace of the calling thread.
func sendINIT(to netip.AddrPort) (a answer, err error) {
	c, err := net.ListenPacket("ip4:sctp", "0.0.0.0")
	if err != nil {
		return a, err
	}
	defer c.Close()
	p := sctpPacket{from: uint16(32768 + rand.IntN(28000)), to: to.Port(), chunk: chunkINIT, initiate: 1 + rand.Uint32N(1<<30)}
	if _, err := c.WriteTo(p.marshal(), &net.IPAddr{IP: to.Addr().AsSlice()}); err != nil {
		return a, err
	}
	c.SetReadDeadline(time.Now().Add(soon))
	b := make([]byte, 2000)
	for {
		k, _, err := c.ReadFrom(b)
		if err != nil {
			return a, err
		}
		r, err := parseSCTP(b[:k])
		if err != nil || r.to != p.from || r.tag != p.initiate || r.chunk != chunkINITACK {
			continue
		}
		var client string
		if _, err := fmt.Sscan(r.cookie, &a.task, &client, &a.port); err != nil {
			return a, err
		}
		a.client, err = netip.ParseAddr(client)
		return a, err
	}
}
