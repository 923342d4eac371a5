package dnsd

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzStream feeds the server what a client may send over TCP: it must not hang, and
// whatever it answers must be whole messages, each to a question that was sent.
func FuzzStream(f *testing.F) {
	web, foreign := frame(question("web", "A")), frame(question("example.com", "A"))
	f.Add(web)
	f.Add(append(bytes.Clone(web), foreign...))
	f.Add(web[:7])
	f.Add(frame(nil))
	f.Add([]byte{0xFF, 0xFF})
	f.Add(frame([]byte("\x00\x01\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00"))) // an answer
	o := options()
	o.Timeout = 20 * time.Millisecond
	s := unstarted(f, o)
	s.idle = 100 * time.Millisecond
	f.Fuzz(func(t *testing.T, sent []byte) {
		client, server := net.Pipe()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.serveConn(&conn{Conn: server}, ip("127.0.0.2"))
		}()
		go func() {
			client.SetWriteDeadline(time.Now().Add(5 * time.Second))
			client.Write(sent)
		}()
		ids := map[uint16]bool{}
		for rest := sent; len(rest) >= 4; {
			ids[uint16(rest[2])<<8|uint16(rest[3])] = true
			n := 2 + int(rest[0])<<8 + int(rest[1])
			if n > len(rest) {
				break
			}
			rest = rest[n:]
		}
		client.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, dns.MaxMsgSize)
		for {
			n, err := readFrame(client, buf)
			if err != nil {
				break
			}
			m := new(dns.Msg)
			if err := m.Unpack(buf[:n]); err != nil || !m.Response || !ids[m.Id] {
				t.Fatalf("answered to %x: %v\n%s", sent, err, m)
			}
		}
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatalf("the connection is still served after %x", sent)
		}
		client.Close()
	})
}
