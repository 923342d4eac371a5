package conformance

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"shoal/lab/wait"
)

// waitLimit is how long an answer may take on a busy machine; soon is when a
// refusal is not at once any more, learnLimit when a client should know that its
// task is gone, and silence is how long silence is listened to.
const (
	waitLimit  = 5 * time.Second
	soon       = 900 * time.Millisecond
	learnLimit = 2 * time.Second
	silence    = 300 * time.Millisecond
)

// serve answers, as long as the namespace is there or until it is stopped, with
// the namespace's name, the client's address and the own port; by TCP, it then
// echoes.
func (n *namespace) serve(t *testing.T, network string, at netip.AddrPort) (stop func()) {
	t.Helper()
	if network == "udp" {
		var c net.PacketConn
		n.must(t, func() (err error) { c, err = net.ListenPacket("udp4", at.String()); return err })
		go n.answerDatagrams(c, at.Port())
		return func() { c.Close() }
	}
	var l net.Listener
	n.must(t, func() (err error) { l, err = net.Listen("tcp4", at.String()); return err })
	go n.answerConnections(l, at.Port())
	return func() { l.Close() }
}

func (n *namespace) answerConnections(l net.Listener, port uint16) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			late := n.last.Load()
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintf(c, "%s %s %d\n", n.name, host, port)
			io.Copy(c, c)
			if late != nil {
				late.Wait()
				io.WriteString(c, lastWords)
			}
		}()
	}
}

const lastWords = "that is all\n"

// answerLate has the namespace say something more to a client that connects from now on, and
// has closed its end, once it is told to.
func (n *namespace) answerLate() (now func()) {
	var late sync.WaitGroup
	late.Add(1)
	n.last.Store(&late)
	return func() { n.last.Store(nil); late.Done() }
}

func (n *namespace) answerDatagrams(c net.PacketConn, port uint16) {
	b := make([]byte, 2000)
	for {
		_, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		host, _, _ := net.SplitHostPort(from.String())
		c.WriteTo(fmt.Appendf(nil, "%s %s %d\n", n.name, host, port), from)
	}
}

// listen has a host's own process answer, by TCP and UDP, until the test ends.
// UDP answers come from the address that the socket is bound to.
func (w *world) listen(name, at string) {
	w.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		w.t.Cleanup(w.names[name].serve(w.t, network, netip.MustParseAddrPort(at)))
	}
}

// answer is who answered, which client it saw, and on which port.
type answer struct {
	task   string
	client netip.Addr
	port   int
}

// conn is a connection, or a socket that sends datagrams.
type conn struct {
	net.Conn
	r *bufio.Reader
	answer
	led bool // to its task, when it connected
}

// dial opens a connection, from one of the namespace's addresses if that is
// valid.
func (n *namespace) dial(network, to string, from netip.Addr) (c *conn, err error) {
	err = n.do(func() error {
		d := net.Dialer{Timeout: waitLimit}
		if network == "udp" {
			// A port that was used before would belong to a flow of that time.
			port := 20_000 + n.port.Add(1)%40_000
			d.LocalAddr = &net.UDPAddr{IP: from.AsSlice(), Port: int(port)}
		} else if from.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		nc, err := d.Dial(network+"4", to)
		if err == nil {
			c = &conn{Conn: nc, r: bufio.NewReader(nc)}
		}
		return err
	})
	return c, err
}

// hear reads who answers, of datagrams after sending one.
func (c *conn) hear(limit time.Duration) error {
	c.SetDeadline(time.Now().Add(limit))
	defer c.SetDeadline(time.Time{})
	if _, udp := c.Conn.(*net.UDPConn); udp {
		if _, err := c.Write([]byte("?")); err != nil {
			return err
		}
	}
	line, err := c.r.ReadString('\n')
	if err != nil {
		return err
	}
	var client string
	if _, err := fmt.Sscan(line, &c.task, &client, &c.port); err != nil {
		return fmt.Errorf("answer %q: %w", line, err)
	}
	c.client, err = netip.ParseAddr(client)
	return err
}

// echo tells whether the connection still carries something there and back.
func (c *conn) echo() error {
	c.SetDeadline(time.Now().Add(waitLimit))
	defer c.SetDeadline(time.Time{})
	if _, err := fmt.Fprintln(c, "still there"); err != nil {
		return err
	}
	line, err := c.r.ReadString('\n')
	if err == nil && line != "still there\n" {
		err = fmt.Errorf("echo of %q", line)
	}
	return err
}

// ask makes one request.
func (n *namespace) ask(network, to string) (answer, error) {
	return n.askFrom(netip.Addr{}, network, to)
}

func (n *namespace) askFrom(from netip.Addr, network, to string) (answer, error) {
	c, err := n.dial(network, to, from)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	err = c.hear(waitLimit)
	return c.answer, err
}

// hold opens a connection that lasts as long as the test.
func (w *world) hold(from, network, to string) *conn {
	w.t.Helper()
	c, err := w.names[from].dial(network, to, netip.Addr{})
	if err == nil {
		w.t.Cleanup(func() { c.Close() })
		err = c.hear(waitLimit)
	}
	if err != nil {
		w.t.Fatalf("%s → %s/%s: %v", from, to, network, err)
	}
	c.led = w.plane.leads(network) && pool.Contains(netip.MustParseAddrPort(to).Addr())
	return c
}

// seen is as whom a task sees a client that connects to a VIP; zero: as one of
// several.
func (w *world) seen(client, network string) netip.Addr {
	n := w.names[client]
	if w.plane.leads(network) && slices.ContainsFunc(w.hosts, func(h *host) bool { return h.namespace == n }) {
		return netip.Addr{}
	}
	return n.addr
}

// holdAt is a connection to that task.
func (w *world) holdAt(task, from, network, to string) *conn {
	w.t.Helper()
	for range 20 {
		if c := w.hold(from, network, to); c.task == task {
			return c
		}
	}
	w.t.Fatalf("%s → %s/%s: task %s never answers", from, to, network, task)
	return nil
}

// answers asks n times and counts who answers. Each must see that client,
// unless it is zero.
func (w *world) answers(n int, from, network, to string, client netip.Addr) map[string]int {
	w.t.Helper()
	got := map[string]int{}
	failed := 0
	for range n {
		a, err := w.names[from].ask(network, to)
		if err != nil {
			w.t.Errorf("%s → %s/%s: %v", from, to, network, err)
			w.timedOut(err)
			if failed++; failed == 3 {
				break
			}
			continue
		}
		if client.IsValid() && a.client != client {
			w.t.Errorf("%s → %s/%s: task %s saw client %s, want %s", from, to, network, a.task, a.client, client)
		}
		got[a.task]++
	}
	return got
}

// timedOut ends a test in which too much was waited for in vain.
func (w *world) timedOut(err error) {
	w.t.Helper()
	if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
		return
	}
	if w.late++; w.late >= 3 {
		w.t.Fatal("too much times out: the rest of the test is left out")
	}
}

// evenly asks every task's share twice: each must answer as often.
func (w *world) evenly(from, network, to string, client netip.Addr, tasks ...string) {
	w.t.Helper()
	want := map[string]int{}
	for _, t := range tasks {
		want[t] = 2
	}
	if got := w.answers(2*len(tasks), from, network, to, client); !maps.Equal(got, want) {
		w.t.Errorf("%s → %s/%s: answers by task %v, want %v", from, to, network, got, want)
	}
}

// by tells that one of these tasks answers, as often as it is asked.
func (w *world) by(from, network, to string, tasks ...string) {
	w.t.Helper()
	for task := range w.answers(2*len(tasks), from, network, to, netip.Addr{}) {
		if !slices.Contains(tasks, task) {
			w.t.Errorf("%s → %s/%s: task %s answers, want %v", from, to, network, task, tasks)
		}
	}
}

// refused tells that nobody answers, and that the client hears so at once.
func (w *world) refused(from, network, to string) {
	w.t.Helper()
	var took time.Duration
	for range 3 { // a busy machine may be late once
		start := time.Now()
		a, err := w.names[from].ask(network, to)
		took = time.Since(start)
		if !errors.Is(err, unix.ECONNREFUSED) {
			w.t.Errorf("%s → %s/%s: answer %v, error %v after %v; want connection refused", from, to, network, a, err, took.Round(time.Millisecond))
			w.timedOut(err)
			return
		}
		if took < soon {
			return
		}
	}
	w.t.Errorf("%s → %s/%s: refused only after %v", from, to, network, took.Round(time.Millisecond))
}

// silent tells that a datagram is neither answered nor refused.
func (w *world) silent(from, to string) {
	w.t.Helper()
	c, err := w.names[from].dial("udp", to, netip.Addr{})
	if err != nil {
		w.t.Errorf("%s → %s: %v", from, to, err)
		return
	}
	defer c.Close()
	for range 2 { // what is refused is told by the call after
		if err := c.hear(silence); !errors.Is(err, os.ErrDeadlineExceeded) {
			w.t.Errorf("%s → %s: answer of %q, error %v, want nothing", from, to, c.task, err)
		}
	}
}

// unreached tells that no connection is made.
func (w *world) unreached(from, to string) {
	w.t.Helper()
	n := w.names[from]
	_ = n.do(func() error {
		c, err := net.DialTimeout("tcp4", to, silence)
		if err == nil {
			w.t.Errorf("%s → %s: connected, want no connection", from, to)
			c.Close()
		}
		return nil
	})
}

// moves tells that a steady sender of datagrams is off a task at once: one may
// be lost while the kernel drops the flow, none may reach the task.
func (w *world) moves(udp *conn, off string) {
	w.t.Helper()
	// A datagram or two may be lost in the moment of the change, of which a
	// process of the host hears at once. One that is led moves after the pass, when
	// it was found among the open files of all processes.
	limit := 3 * silence
	if udp.led {
		limit = waitLimit
	}
	for end := time.Now().Add(limit); ; {
		err := udp.hear(silence)
		if err == nil && udp.task != off {
			return
		}
		if err == nil && !udp.led || time.Now().After(end) {
			w.t.Errorf("UDP does not move from %s: answer of %q, %v", off, udp.task, err)
			return
		}
	}
}

// ping sends one echo request and waits for the reply.
func (n *namespace) ping(to string, limit time.Duration) error {
	return n.do(func() error {
		c, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
		if err != nil {
			return err
		}
		defer c.Close()
		m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 77, Seq: 1}}
		b, err := m.Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(b, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
			return err
		}
		c.SetReadDeadline(time.Now().Add(limit))
		b = make([]byte, 1500)
		for {
			k, peer, err := c.ReadFrom(b)
			if err != nil {
				return err
			}
			if r, err := icmp.ParseMessage(1, b[:k]); err == nil && peer.String() == to && r.Type == ipv4.ICMPTypeEchoReply {
				return nil
			}
		}
	})
}

// until waits for what is to come true soon.
func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	wait.For(w.t, 2*waitLimit, what, cond)
}
