package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// CutApart keeps machines of one wire from reaching each other, while they reach all others and are reached by them, until
// the function that it returns is called. They see no cable unplugged.
func (l *Lab) CutApart(machines ...*Machine) (join func()) {
	l.t.Helper()
	isolate := func(on bool) {
		l.t.Helper()
		for _, m := range machines {
			port, err := l.link.LinkByName(m.port(m.wire))
			if err == nil {
				err = l.link.LinkSetIsolated(port, on)
			}
			if err != nil {
				l.t.Fatalf("%s: isolate its port of the wire, %v: %v", m.name, on, err)
			}
		}
	}
	isolate(true)
	return func() { l.t.Helper(); isolate(false) }
}

// Narrow loses every packet from and to the machine that has more octets than that, and tells nobody, until the function that it
// returns is called: as a network does that carries less than the cards at its ends say, where what would tell the sender is filtered.
func (m *Machine) Narrow(octets int) (stop func()) {
	m.t.Helper()
	d, err := m.w.interpose(m.machine, 0, octets)
	if err != nil {
		m.t.Fatalf("%s: narrow its link: %v", m.name, err)
	}
	return func() {
		m.t.Helper()
		if err := d.stop(); err != nil {
			m.t.Fatalf("%s: narrow its link no more: %v", m.name, err)
		}
	}
}

// Delay has every frame from and to the machine arrive so much later than it would, and lost none, until the function that it
// returns is called. No queueing discipline does it, as not every kernel has netem: between the machine's link and the wire's bridge
// frames go through this process.
//
//	eth0 ── wire-NAME ── this process ── late-NAME-p ── late-NAME ── bridge
func (m *Machine) Delay(by time.Duration) (stop func()) {
	m.t.Helper()
	d, err := m.w.interpose(m.machine, by, 0)
	if err != nil {
		m.t.Fatalf("%s: delay its link: %v", m.name, err)
	}
	return func() {
		m.t.Helper()
		if err := d.stop(); err != nil {
			m.t.Fatalf("%s: delay its link no more: %v", m.name, err)
		}
	}
}

// interposed is a machine's link with this process in it, which delays or loses frames.
type interposed struct {
	w         *world
	port      netlink.Link // the wire's end of the machine's link
	bridge    netlink.Link
	late      *netlink.Veth
	by        time.Duration
	most      int // octets of a packet; 0: any
	near, far int // packet sockets, on port and on the peer of late
	stopped   atomic.Bool
	copying   sync.WaitGroup
}

func (w *world) interpose(m *machine, by time.Duration, most int) (_ *interposed, err error) {
	name := "late-" + m.name
	d := &interposed{w: w, by: by, most: most, near: -1, far: -1, late: &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, Flags: 1}, PeerName: name + "-p"}} // up
	defer func() {
		if err != nil {
			_ = w.link.LinkDel(d.late)
			d.close()
		}
	}()
	if d.bridge, err = w.link.LinkByName(m.wire.bridge); err != nil {
		return nil, fmt.Errorf("find the wire's bridge: %w", err)
	}
	if d.port, err = w.link.LinkByName(m.port(m.wire)); err != nil {
		return nil, fmt.Errorf("find its port of the wire: %w", err)
	}
	d.late.MasterIndex = d.bridge.Attrs().Index
	if err := w.link.LinkAdd(d.late); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	peer, err := w.link.LinkByName(d.late.PeerName)
	if err != nil {
		return nil, err
	}
	if err := w.link.LinkSetUp(peer); err != nil {
		return nil, err
	}
	if d.near, err = w.packetSocket(d.port.Attrs().Index); err != nil {
		return nil, err
	}
	if d.far, err = w.packetSocket(peer.Attrs().Index); err != nil {
		return nil, err
	}
	if err := w.link.LinkSetNoMaster(d.port); err != nil {
		return nil, fmt.Errorf("take its port off the bridge: %w", err)
	}
	d.copying.Go(func() { d.copy(d.far, d.near) })
	d.copying.Go(func() { d.copy(d.near, d.far) })
	return d, nil
}

// packetSocket is a socket for all frames that come in on an interface in the wires' namespace, with what the kernel has not done
// to them yet, checksums and segmentation (PACKET_VNET_HDR): it does that when they are sent on.
func (w *world) packetSocket(index int) (fd int, err error) {
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00 // in network byte order
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err = netns.Set(w.wire); err == nil {
			fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		}
	}()
	<-done
	if err != nil {
		return -1, fmt.Errorf("make a packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}),
	)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("set up a packet socket: %w", err)
	}
	return fd, nil
}

// copy sends what comes in on one socket by the other, after the delay, until it is stopped; then what is on its way still.
func (d *interposed) copy(to, from int) {
	type frame struct {
		due time.Time
		b   []byte
	}
	queue := make(chan frame, 1<<14)
	d.copying.Go(func() {
		for f := range queue {
			time.Sleep(time.Until(f.due))
			_, _ = unix.Write(to, f.b) // a link that is down loses what is sent, here as elsewhere
		}
	})
	defer close(queue)
	b := make([]byte, 1<<17)
	for !d.stopped.Load() {
		n, err := unix.Read(from, b)
		if err != nil {
			continue // there was nothing for the socket's receive timeout, or the link is down
		}
		if d.most > 0 && largestPacket(b[:n]) > d.most {
			continue
		}
		queue <- frame{time.Now().Add(d.by), append([]byte(nil), b[:n]...)}
	}
}

// largestPacket is how many octets the largest packet has that becomes of a frame behind a virtio_net_hdr (linux/virtio_net.h), which
// says of a packet that is not segmented yet how much goes into each segment.
func largestPacket(b []byte) int {
	const header, ethernet = 10, 14
	if len(b) < header+ethernet+20 {
		return 0
	}
	kind, payload, ip := b[1], int(binary.NativeEndian.Uint16(b[4:])), b[header+ethernet:]
	if kind == unix.VIRTIO_NET_HDR_GSO_NONE || ip[0]>>4 != 4 {
		return len(ip)
	}
	headers := int(ip[0]&0xf) * 4
	switch {
	case ip[9] == unix.IPPROTO_TCP && len(ip) > headers+12:
		headers += int(ip[headers+12]>>4) * 4
	case ip[9] == unix.IPPROTO_UDP:
		headers += 8
	}
	return min(headers+payload, len(ip))
}

// stop puts the machine's link back on the bridge, and returns when what was on its way has arrived.
func (d *interposed) stop() error {
	d.stopped.Store(true)
	err := d.w.link.LinkSetMaster(d.port, d.bridge)
	d.copying.Wait()
	d.close()
	if e := d.w.link.LinkDel(d.late); e != nil {
		err = errors.Join(err, fmt.Errorf("remove %s: %w", d.late.Name, e))
	}
	return err
}

func (d *interposed) close() {
	for _, fd := range []int{d.near, d.far} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
