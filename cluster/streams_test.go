package cluster

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"shoal/internal/connlimit"
	"shoal/lab/wait"
)

// gossips are hosts of one cluster in this process, each at a loopback address of its own.
func gossips(t *testing.T, hosts map[string]netip.Addr, port uint16) (lives map[string]*Liveness, ids map[string]*Identity) {
	t.Helper()
	lives, ids = map[string]*Liveness{}, map[string]*Identity{}
	for name, dir := range identities(t, hosts) {
		id, err := Load(Host{Dir: dir, Node: name, Addr: hosts[name]})
		if err != nil {
			t.Fatal(err)
		}
		l, err := StartLiveness(LivenessOptions{
			Node: name, Addr: hosts[name], Port: port, Identity: id, Peers: func() map[string]netip.Addr { return hosts },
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Restart() })
		lives[name], ids[name] = l, id
	}
	return lives, ids
}

// met waits until gossip itself has hosts in one cluster, which takes a connection.
func met(t *testing.T, l *Liveness, n int) {
	t.Helper()
	wait.For(t, 20*time.Second, "they are in one gossip", func() bool { return l.ml.NumMembers() == n })
}

// TestStrangersMakeGossipHoldNothing: each says that 19 MiB are to come, and sends some of them. memberlist by itself
// took what came into memory, of as many connections as there were.
func TestStrangersMakeGossipHoldNothing(t *testing.T) {
	a := netip.MustParseAddr("127.0.78.1")
	hosts := map[string]netip.Addr{"a": a, "b": a.Next()}
	const port = 17946
	lives, _ := gossips(t, hosts, port)
	met(t, lives["a"], 2)

	held := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := held()
	const strangers, each = 60, 2 << 20
	hello := append([]byte{10}, binary.BigEndian.AppendUint32(nil, 19<<20)...) // memberlist's encryptMsg, and a length
	done := make(chan struct{}, strangers)
	for i := range strangers {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 79, byte(i/8+1))}}
		c, err := d.Dial("tcp", netip.AddrPortFrom(a, port).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go func() {
			defer func() { done <- struct{}{} }()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			c.Write(hello)
			c.Write(make([]byte, each))
		}()
	}
	for range strangers {
		<-done
	}
	if grown := int64(held()) - int64(before); grown > strangers*each/4 {
		t.Errorf("%d strangers have it hold %d KiB more", strangers, grown>>10)
	}
	if !lives["a"].States()[0].Alive {
		t.Error("meanwhile the other host is taken for dead")
	}
}

// TestGossipGreetsSoManyAndNoMore: connections that say nothing are bounded, by source and in all, and do not last.
func TestGossipGreetsSoManyAndNoMore(t *testing.T) {
	a := netip.MustParseAddr("127.0.78.11")
	const port = 17947
	gossips(t, map[string]netip.Addr{"a": a}, port)
	silent := func(from byte) net.Conn {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 79, from)}}
		c, err := d.Dial("tcp", netip.AddrPortFrom(a, port).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	// closed tells how soon the other end closes a connection.
	closed := func(c net.Conn) time.Duration {
		start := time.Now()
		c.SetReadDeadline(start.Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Error("a connection that says nothing is kept")
		}
		return time.Since(start)
	}
	var first []net.Conn
	for range maxGreetedEach {
		first = append(first, silent(100))
	}
	if took := closed(silent(100)); took > greetTimeout/2 {
		t.Errorf("one more from the same address was kept for %s", took)
	}
	for _, c := range first {
		closed(c)
	}
	for i := range maxGreeted {
		silent(byte(101 + i/maxGreetedEach))
	}
	if took := closed(silent(200)); took > greetTimeout/2 {
		t.Errorf("one more than may be was kept for %s", took)
	}
}

// TestARevokedHostIsOutOfGossip, and so is one of another cluster.
func TestARevokedHostIsOutOfGossip(t *testing.T) {
	a := netip.MustParseAddr("127.0.78.21")
	hosts := map[string]netip.Addr{"a": a, "b": a.Next()}
	const port = 17948
	lives, ids := gossips(t, hosts, port)
	met(t, lives["a"], 2)
	dial := func(id *Identity) error {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", netip.AddrPortFrom(a, port).String(), id.gossipTLS())
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(500 * time.Millisecond))
		// A server refuses a client's certificate after the client is done with the handshake.
		_, err = c.Read(make([]byte, 1))
		if e, ok := err.(net.Error); ok && e.Timeout() {
			return nil // it waits for what is said
		}
		return err
	}
	if err := dial(ids["b"]); err != nil {
		t.Fatalf("a host of the cluster is refused: %v", err)
	}
	other, err := Load(Host{Dir: identities(t, map[string]netip.Addr{"b": hosts["b"]})["b"], Node: "b", Addr: hosts["b"]})
	if err != nil {
		t.Fatal(err)
	}
	if err := dial(other); err == nil {
		t.Error("a host of another cluster is let in")
	}
	ids["a"].revoked.Store(&map[string]revocation{ids["b"].Key(): {}})
	if err := dial(ids["b"]); err == nil {
		t.Error("a removed host is let in")
	}
}

// TestGossipConnectsFromTheHostsOwnAddress: the other end counts connections by address, and firewalls know hosts by it.
func TestGossipConnectsFromTheHostsOwnAddress(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.82.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	s := &gossipPort{self: netip.MustParseAddr("127.0.82.2"), client: &tls.Config{InsecureSkipVerify: true}}
	go func() {
		if c, err := s.DialTimeout(other.Addr().String(), time.Second); err == nil {
			c.Close()
		}
	}()
	c, err := other.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if from := connlimit.Remote(c.RemoteAddr().String()); from != s.self {
		t.Errorf("the connection comes from %s", from)
	}
}
