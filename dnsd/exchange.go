package dnsd

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/miekg/dns"
)

var errMalformed = errors.New("malformed answer")

// exchange asks one resolver, by UDP and, where the answer was cut, by TCP.
// It sets m's ID. Each question has a random ID and a socket of its own, and
// so a random port (RFC 5452); the socket is connected, so that the kernel
// drops what comes from another address. What does not answer the question
// is passed over, and waiting goes on.
func exchange(ctx context.Context, to netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	reply, err := exchangeOver(ctx, "udp", to, m)
	if err == nil && reply.Truncated {
		return exchangeOver(ctx, "tcp", to, m)
	}
	return reply, err
}

func exchangeOver(ctx context.Context, network string, to netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	m.Id = randomID()
	question, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack question: %w", err)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, to.String())
	if err != nil {
		return nil, deadlineOr(ctx, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	read, write := conn.Read, conn.Write
	if network == "tcp" {
		read = func(b []byte) (int, error) { return readFrame(conn, b) }
		write = func(b []byte) (int, error) { return conn.Write(frame(b)) }
	}
	if _, err := write(question); err != nil {
		return nil, deadlineOr(ctx, err)
	}
	// We say that we take udpSize octets. Who sends more over UDP is malformed, and
	// many questions under way do not take much memory.
	size := 4096
	if network == "tcp" {
		size = dns.MaxMsgSize
	}
	buf := make([]byte, size)
	for {
		n, err := read(buf)
		if err != nil {
			return nil, deadlineOr(ctx, err)
		}
		if !answers(question, buf[:n]) {
			continue
		}
		reply := &dns.Msg{}
		if err := reply.Unpack(buf[:n]); err != nil && !reply.Truncated {
			return nil, fmt.Errorf("%w: %w", errMalformed, err)
		}
		return reply, nil
	}
}

// answers tells whether a message answers a question: same ID, same question,
// or none where it could not be read.
func answers(question, reply []byte) bool {
	if len(reply) < headerSize || [2]byte(reply) != [2]byte(question) || reply[2]&^(flagAA|flagTC|flagRD) != flagQR {
		return false
	}
	var q, r query
	if binary.BigEndian.Uint16(reply[4:]) == 0 {
		rcode := int(reply[3] & 0x0F)
		return rcode == dns.RcodeFormatError || rcode == dns.RcodeNotImplemented
	}
	return q.readQuestion(question) && r.readQuestion(reply) &&
		string(q.name.whole()) == string(r.name.whole()) && q.qtype == r.qtype && q.qclass == r.qclass
}

func randomID() uint16 {
	var b [2]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint16(b[:])
}

// deadlineOr tells a deadline from other failures of the network.
func deadlineOr(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("no answer: %w", context.DeadlineExceeded)
	}
	return err
}

// readFrame reads one message from a stream (RFC 1035 section 4.2.2) into b.
// A longer one is an error.
func readFrame(r io.Reader, b []byte) (int, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > len(b) {
		return 0, fmt.Errorf("message of %d octets, %d is the most", n, len(b))
	}
	return io.ReadFull(r, b[:n])
}

// frame puts a message's length in front of it.
func frame(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg))), msg...)
}
