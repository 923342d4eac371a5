package dnsd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

func (s *Server) serveTCP(l net.Listener) {
	beat := s.watch(l.(*net.TCPListener).SetDeadline)
	defer beat.stop()
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if beat.due(err) {
				continue
			}
			s.opt.Log.Warn("accept a DNS connection", "error", err)
			select { // out of file descriptors, most likely
			case <-s.forwarder.ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		asker := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
		network := netip.PrefixFrom(asker, asker.BitLen())
		if t := s.table.Load(); t != nil {
			if !t.allowed.allows(asker) {
				s.metrics.refused.Inc()
				c.Close()
				continue
			}
			network = t.allowed.networkOf(asker)
		}
		release, ok := s.conns.acquire(asker, network, func() { c.Close() })
		if !ok {
			c.Close()
			continue
		}
		s.tasks.Go(func() {
			defer release()
			s.serveConn(&conn{Conn: c}, asker)
		})
	}
}

// conn is a client's connection. Answers are written as they come, in any order.
type conn struct {
	net.Conn
	write sync.Mutex
}

// send writes a message with its length. A client that does not read loses
// its connection.
func (c *conn) send(framed []byte) {
	c.write.Lock()
	defer c.write.Unlock()
	c.SetWriteDeadline(time.Now().Add(tcpIdle))
	if _, err := c.Write(framed); err != nil {
		c.Close()
	}
}

// buffers are for answers over TCP, each with its length in front.
var buffers = sync.Pool{New: func() any { return new([2 + dns.MaxMsgSize]byte) }}

// serveConn answers one question after the other, those to be forwarded
// beside the rest, until the client closes or is idle or the server stops.
func (s *Server) serveConn(c *conn, asker netip.Addr) {
	var under sync.WaitGroup
	defer c.Close()
	defer under.Wait() // a client that closed its half still reads
	stop := context.AfterFunc(s.forwarder.ctx, func() { c.Close() })
	defer stop()

	r := bufio.NewReader(c)
	in := make([]byte, maxQuestion)
	pipelined := make(chan struct{}, maxPipelined)
	for {
		c.SetReadDeadline(time.Now().Add(s.idle))
		n, err := readFrame(r, in)
		if err != nil {
			return
		}
		if s.fastTCP(c, in[:n], asker) {
			continue
		}
		pipelined <- struct{}{}
		under.Add(1)
		s.slow(slices.Clone(in[:n]), asker, true, func(answer []byte) {
			if answer != nil {
				c.send(frame(answer))
			}
			<-pipelined
			under.Done()
		})
	}
}

func (s *Server) fastTCP(c *conn, msg []byte, asker netip.Addr) bool {
	out := buffers.Get().(*[2 + dns.MaxMsgSize]byte)
	defer buffers.Put(out)
	n, ok := s.fast(out[2:], msg, asker, true)
	if ok {
		binary.BigEndian.PutUint16(out[:], uint16(n))
		c.send(out[:2+n])
	}
	return ok
}
