package fabric

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// leastPacket is what every IPv4 host takes (RFC 791 section 3.1), in octets.
const leastPacket = 576

// rungs are how many sizes are tried.
const rungs = 24

// Carried tells how large packets are that arrive at an address and whose answers
// come back, up to most octets: echo requests of many sizes are sent at once, that
// nobody on the way may fragment. It is 0 where not even small ones are answered. What
// is larger is lost on the way, or (lost is false) this host itself would send no such
// packet, and tells the sender so: that is in order. It takes a second where an
// answer is missing, and hardly any time else. It must be called in the network
// namespace of the fabric.
func Carried(ctx context.Context, from, to netip.Addr, most int) (largest int, lost bool, err error) {
	conn, err := net.ListenPacket("ip4:icmp", from.String())
	if err != nil {
		return 0, false, fmt.Errorf("send pings from %s: %w", from, err)
	}
	defer conn.Close()
	raw, err := conn.(*net.IPConn).SyscallConn()
	if err != nil {
		return 0, false, err
	}
	if ctrlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	}); ctrlErr != nil || err != nil {
		return 0, false, fmt.Errorf("have pings not fragmented: %w", err)
	}
	var number [2]byte
	rand.Read(number[:])
	id := int(binary.BigEndian.Uint16(number[:]))
	waiting := map[int]bool{}
	const headers = 28 // of IPv4 and ICMP
	for i := range rungs {
		size := most - i*(most-leastPacket)/(rungs-1)
		m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: size, Data: make([]byte, max(size-headers, 0))}}
		b, err := m.Marshal(nil)
		if err != nil {
			return 0, false, err
		}
		if _, err := conn.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err == nil { // else a device of this host does not take it, or there is no route
			waiting[size] = true
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return 0, false, err
	}
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })()
	buf := make([]byte, most+headers)
	for len(waiting) > 0 {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			break // no more answers come
		}
		m, err := icmp.ParseMessage(1, buf[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && e.ID == id && waiting[e.Seq] {
			delete(waiting, e.Seq)
			largest = max(largest, e.Seq)
		}
	}
	for size := range waiting {
		lost = lost || size > largest
	}
	return largest, lost, nil
}
