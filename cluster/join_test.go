package cluster

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var helloHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello "+PeerNode(r)) })

// hello asks a server's handler for members who they are.
func hello(c *http.Client, server netip.AddrPort) (string, error) {
	resp, err := c.Get("https://" + server.String() + "/hello")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return fmt.Sprint(resp.StatusCode, " ", string(b)), err
}

func TestJoin(t *testing.T) {
	b := newBench(t, func(o *ServerOptions) {
		o.Cluster = func(_ context.Context, node string) (json.RawMessage, error) {
			return json.RawMessage(`{"for":"` + node + `"}`), nil
		}
	})
	h := b.host("b", "127.0.1.2")
	id, welcome, err := join(t.Context(), h, b.server.Addr(), b.token(0, 0), b.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	if string(welcome.Cluster) != `{"for":"b"}` {
		t.Errorf("told of the cluster: %s", welcome.Cluster)
	}
	if len(welcome.Peers) != 2 || welcome.Peers["a"] != b.id.host.Addr || welcome.Peers["b"] != h.Addr {
		t.Errorf("peers: %v", welcome.Peers)
	}
	if !bytes.Equal(id.GossipKey(), b.id.GossipKey()) || len(id.GossipKey()) != 32 {
		t.Error("it has another gossip key")
	}
	if id.HoldsCA() {
		t.Error("it holds the CA's key")
	}
	leaf := id.leaf()
	if leaf.Subject.CommonName != "b" || leaf.DNSNames[0] != "b.node.shoal" || !coversAddr(leaf, h.Addr) || leaf.IsCA {
		t.Errorf("certificate: %v %v %v, CA: %t", leaf.Subject, leaf.DNSNames, leaf.IPAddresses, leaf.IsCA)
	}
	if got, err := hello(id.HTTPClient(), b.server.Addr()); got != "200 hello b" {
		t.Errorf("asked who it is: %q, %v", got, err)
	}
	if err := filepath.Walk(h.Dir, func(path string, info os.FileInfo, err error) error {
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}

	t.Run("comes back without a token", func(t *testing.T) {
		again, err := load(h, b.clock.now)
		if err != nil {
			t.Fatal(err)
		}
		w, err := again.Rejoin(t.Context(), []netip.AddrPort{netip.MustParseAddrPort("127.0.1.9:1"), b.server.Addr()})
		if err != nil || string(w.Cluster) != `{"for":"b"}` {
			t.Errorf("Rejoin: %+v, %v", w, err)
		}
	})
}

func TestJoinIsRefused(t *testing.T) {
	var opened atomic.Int32
	b := newBench(t, func(o *ServerOptions) {
		o.Open = func(context.Context) error { opened.Add(1); return nil }
	})
	spent := b.token(0, 1)
	if _, err := b.join(b.host("b", "127.0.1.2"), spent); err != nil {
		t.Fatal(err)
	}
	expired := b.token(time.Minute, 1)
	removed := b.token(0, 1)
	if _, s, err := parseToken(removed); err != nil || b.reg.RemoveToken(t.Context(), tokenID(s.hash())) != nil {
		t.Fatal("cannot remove a token")
	}
	b.clock.turn(time.Minute)
	// The others are made now: they are good.
	for i, tt := range []struct {
		name, node, token string
		public, log       string
	}{
		{"wrong secret", "c", formatToken(b.id.caSum, newSecret()), "the token was refused", "no such token"},
		{"expired", "c", expired, "the token was refused", "the token has expired"},
		{"spent", "c", spent, "the token was refused", "uses are spent"},
		{"spent, under the name of who spent it", "b", spent, "the token was refused", "uses are spent"},
		{"removed", "c", removed, "the token was refused", "no such token"},
		{"name taken", "b", b.token(0, 1), "shoal node rm b", "the node's name is not"},
		{"name of the first host taken", "a", b.token(0, 1), "shoal node rm a", "the node's name is not"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := fmt.Sprintf("127.0.1.%d", 10+i)
			h := b.host(tt.node, addr)
			_, err := b.join(h, tt.token)
			wantError(t, err, tt.public)
			b.wantLog("from="+addr, tt.log)
			if _, err := Load(h); !errors.Is(err, ErrNotJoined) {
				t.Errorf("after it Load says %v", err)
			}
		})
	}
	t.Run("the address of another", func(t *testing.T) {
		_, err := b.join(b.host("c", "127.0.1.2"), b.token(0, 1))
		wantError(t, err, "the address 127.0.1.2 is that of host b already")
		wantError(t, err, "shoal node rm b")
	})
	t.Run("from another address than it says", func(t *testing.T) {
		_, s, _ := parseToken(b.token(0, 1))
		key, _ := newKey()
		csr, _ := newCSR(key)
		code, text := post(t, b, "127.0.1.30", encode(joinRequest{"c", netip.MustParseAddr("127.0.1.31"), csr, s[:], ""}))
		if code != 403 || !strings.Contains(text, "127.0.1.30") || !strings.Contains(text, "--advertise") {
			t.Errorf("answer: %d %s", code, text)
		}
	})
	if n := opened.Load(); n != 1 {
		t.Errorf("the cluster was opened %d times, for one host that joined", n)
	}
	if ms, err := b.reg.Members(t.Context()); err != nil || len(ms) != 2 {
		t.Errorf("members: %v, %v; want a and b", ms, err)
	}
}

// post sends a body to /v1/join from an address, without a certificate.
func post(t *testing.T, b *bench, from string, body []byte) (int, string) {
	t.Helper()
	c := stranger(from)
	defer c.CloseIdleConnections()
	resp, err := c.Post("https://"+b.server.Addr().String()+"/v1/join", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// stranger is a client that believes every server and shows a certificate, if
// any, whether the server wants it or not.
func stranger(from string, cert ...*tls.Certificate) *http.Client {
	t := &tls.Config{InsecureSkipVerify: true}
	if len(cert) > 0 {
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert[0], nil }
	}
	return &http.Client{Transport: &http.Transport{
		DialContext: dialFrom(netip.MustParseAddr(from)).DialContext, TLSClientConfig: t,
	}}
}

func TestAnAnswerThatWasLostCanBeAskedForAgain(t *testing.T) {
	b := newBench(t)
	token := b.token(0, 1)
	h := b.host("b", "127.0.1.2")
	first, err := b.join(h, token)
	if err != nil {
		t.Fatal(err)
	}
	// As if the process had died before it saved the answer.
	if err := removeFiles(h.Dir, certFile, caFile, gossipFile); err != nil {
		t.Fatal(err)
	}
	second, err := b.join(h, token)
	if err != nil {
		t.Fatal(err)
	}
	if first.Key() != second.Key() {
		t.Error("it has another key")
	}
}

func TestJoinWaitsForTheStore(t *testing.T) {
	b := newBench(t)
	token, h := b.token(0, 1), b.host("b", "127.0.1.2")
	b.store.setDown(true)
	_, err := b.join(h, token)
	wantError(t, err, "try again")
	b.wantLog("from=127.0.1.2", errDown.Error())
	b.store.setDown(false)
	if _, err := b.join(h, token); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestATokenForOneIsSpentOnceHoweverManyTry(t *testing.T) {
	b := newBench(t)
	for _, uses := range []int{1, 3} {
		token := b.token(0, uses)
		// All read the token before the first writes.
		const tries = 8
		var reads atomic.Int32
		var all sync.WaitGroup
		all.Add(tries)
		b.store.read = func(key string) {
			if strings.HasPrefix(key, tokensRoot) && reads.Add(1) <= tries {
				all.Done()
				all.Wait()
			}
		}
		var joined sync.Map
		var wg sync.WaitGroup
		for i := range tries {
			wg.Go(func() {
				node := fmt.Sprintf("n%d-%d", uses, i)
				if _, err := b.join(b.host(node, fmt.Sprintf("127.0.1.%d", 100+10*uses+i)), token); err == nil {
					joined.Store(node, true)
				} else if !strings.Contains(err.Error(), "the token was refused") {
					t.Errorf("%s: %v", node, err)
				}
			})
		}
		wg.Wait()
		n := 0
		joined.Range(func(any, any) bool { n++; return true })
		if n != uses {
			t.Errorf("%d hosts joined with a token for %d", n, uses)
		}
	}
}

func TestJoinDoesNotTrustAManInTheMiddle(t *testing.T) {
	b := newBench(t)
	other := newBench(t) // answers in its place, with a CA of its own
	token := b.token(0, 1)
	_, _, err := join(t.Context(), b.host("b", "127.0.1.2"), other.server.Addr(), token, b.clock.now)
	wantError(t, err, "its CA has another fingerprint")

	// One that shows the true CA's certificate, but has none of it.
	t.Run("who shows the true CA", func(t *testing.T) {
		fake := *other.id.cert.Load()
		fake.Certificate = [][]byte{fake.Certificate[0], b.id.ca.Raw}
		other.id.cert.Store(&fake)
		_, _, err := join(t.Context(), b.host("b", "127.0.1.2"), other.server.Addr(), token, b.clock.now)
		wantError(t, err, "x509")
	})
	// A host of the cluster that answers at an address not its own.
	t.Run("who is of the cluster", func(t *testing.T) {
		err := checkPinned([]*x509.Certificate{b.id.leaf(), b.id.ca}, b.id.caSum, netip.MustParseAddr("127.0.1.7"), b.clock.now())
		wantError(t, err, "calls itself [127.0.1.1]")
	})
	if strings.Contains(other.log.String(), "refused a request") {
		t.Errorf("something was told to it: %s", other.log.String())
	}
	if _, err := b.join(b.host("b", "127.0.1.2"), token); err != nil {
		t.Errorf("the token does not work any more: %v", err)
	}
}

func TestOnlyMembersReachHandlers(t *testing.T) {
	b := newBench(t)
	t.Run("without a certificate", func(t *testing.T) {
		for _, path := range []string{"/hello", "/v1/welcome"} {
			resp, err := stranger("127.0.1.3").Get("https://" + b.server.Addr().String() + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s: %s", path, resp.Status)
			}
			b.wantLog("from=127.0.1.3", path, "a certificate of its CA is needed")
		}
	})
	t.Run("with one of another CA", func(t *testing.T) {
		other := newBench(t)
		if _, err := hello(stranger("127.0.1.4", other.id.cert.Load()), b.server.Addr()); err == nil {
			t.Error("it was served")
		}
		b.wantLog("from=127.0.1.4", "refused a connection", "unknown authority")
	})
	t.Run("by a protocol older than TLS 1.3", func(t *testing.T) {
		c, err := tls.Dial("tcp", b.server.Addr().String(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
		if err == nil {
			c.Close()
			t.Error("it was served")
		}
	})
}

func TestGuessingTokensIsSlowForWhoGuesses(t *testing.T) {
	b := newBench(t)
	key, _ := newKey()
	csr, _ := newCSR(key)
	guess := func() int {
		s := newSecret()
		code, _ := post(t, b, "127.0.1.66", encode(joinRequest{"x", netip.MustParseAddr("127.0.1.66"), csr, s[:], ""}))
		return code
	}
	for i := range guessBurst {
		if code := guess(); code != http.StatusForbidden {
			t.Fatalf("guess %d: %d", i, code)
		}
	}
	for range 20 {
		if code := guess(); code != http.StatusTooManyRequests {
			t.Fatalf("guess too many: %d", code)
		}
	}
	if n := strings.Count(b.log.String(), "too many join requests"); n != 1 {
		t.Errorf("logged %d times that there are too many", n)
	}
	// Another address is not held up, nor one that has tokens for many.
	for i := range 2 * guessBurst {
		node := fmt.Sprintf("b%d", i)
		b.mustJoin(node, "127.0.1.2")
		if err := b.reg.Remove(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	b.clock.turn(guessEvery)
	if code := guess(); code != http.StatusForbidden {
		t.Errorf("after a while: %d", code)
	}
	if code := guess(); code != http.StatusTooManyRequests {
		t.Errorf("and once more: %d", code)
	}
}

func TestAHandlerMayTakeTime(t *testing.T) {
	const bodyTimeout = 100 * time.Millisecond
	b := newBench(t)
	second := b.mustJoin("b", "127.0.1.2")
	slow := NewServer(ServerOptions{Identity: b.id, Registry: b.reg, Port: freePort(t), bodyTimeout: bodyTimeout})
	for path, time := range map[string]time.Duration{"short": 0, "long": time.Minute} {
		slow.Handle("GET /"+path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if time > 0 {
				if err := TakeTime(w, time); err != nil {
					t.Error(err)
				}
			}
			takes(r.Context(), 3*bodyTimeout)
			if err := r.Context().Err(); err != nil && time > 0 {
				t.Errorf("the request has ended: %v", err)
			}
			io.WriteString(w, "done")
		}))
	}
	if err := slow.Start(); err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	for path, want := range map[string]string{"short": "", "long": "done"} {
		got := ""
		resp, err := second.HTTPClient().Get("https://" + slow.Addr().String() + "/" + path)
		if err == nil {
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			got = string(b)
		}
		if got != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

// takes lets time pass, however soon ctx ends.
func takes(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d)
	defer cancel()
	<-ctx.Done()
}

func TestServerBoundsWhatIsSentToIt(t *testing.T) {
	b := newBench(t)
	if code, text := post(t, b, "127.0.1.5", bytes.Repeat([]byte(" "), maxBody+1)); code != http.StatusBadRequest || !strings.Contains(text, "too long") {
		t.Errorf("a long body: %d %s", code, text)
	}
	var conns []net.Conn
	t.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.1.6")}}
	for range maxConnsEach + 1 {
		c, err := d.Dial("tcp", b.server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	last := conns[maxConnsEach]
	last.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("connection %d from one address stays open: %v", maxConnsEach+1, err)
	}
	b.mustJoin("b", "127.0.1.2") // others are served meanwhile
}

// TestStrangersDoNotLockMembersOut, however many their addresses are.
func TestStrangersDoNotLockMembersOut(t *testing.T) {
	member := netip.MustParseAddr("127.0.1.2")
	b := newBench(t, func(o *ServerOptions) { o.IsMember = func(a netip.Addr) bool { return a == member } })
	second := b.mustJoin("b", member.String())
	for i := range maxConns {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 9, byte(1+i/maxConnsEach))}}
		c, err := d.Dial("tcp", b.server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	// Connections are accepted in order: the strangers' all have been before this one.
	if _, err := stranger("127.0.1.3").Get("https://" + b.server.Addr().String() + "/hello"); err == nil {
		t.Error("strangers are served beyond their share")
	}
	if got, err := hello(second.HTTPClient(), b.server.Addr()); got != "200 hello b" {
		t.Errorf("a member is answered %q, %v", got, err)
	}
}

func TestServerListensOnlyWhenAsked(t *testing.T) {
	b := newBench(t)
	s := NewServer(ServerOptions{Identity: b.id, Registry: b.reg, Port: freePort(t)})
	if c, err := net.Dial("tcp", s.Addr().String()); err == nil {
		c.Close()
		t.Fatal("it listens before Start")
	}
	for range 2 {
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
	}
	defer s.Close()
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestOneThatHoldsNoCAPointsToOneThatDoes(t *testing.T) {
	b := newBench(t, func(o *ServerOptions) {
		o.MayHoldCA = func(_ context.Context, node string) (bool, error) { return node == "c", nil }
	})
	second := b.mustJoin("b", "127.0.1.2")
	server := b.serve(second)
	token := b.token(0, 1)
	_, _, err := join(t.Context(), b.host("c", "127.0.1.3"), server.Addr(), formatToken(b.id.caSum, newSecret()), b.clock.now)
	wantError(t, err, "the token was refused")
	third, _, err := join(t.Context(), b.host("c", "127.0.1.3"), server.Addr(), token, b.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	ask := []netip.AddrPort{server.Addr()}
	if err := third.FetchCA(t.Context(), ask); err != nil || !third.HoldsCA() {
		t.Fatalf("FetchCA: %v", err)
	}
	wantError(t, second.FetchCA(t.Context(), ask), "has no vote in the store")
	if again, err := load(third.host, b.clock.now); err != nil || !again.HoldsCA() {
		t.Errorf("after a restart: %v", err)
	}
	if err := b.reg.Enrol(t.Context(), third); err != nil {
		t.Fatal(err)
	}
	b.server.Close()
	b.serve(third)
	if _, _, err := join(t.Context(), b.host("d", "127.0.1.4"), server.Addr(), b.token(0, 1), b.clock.now); err != nil {
		t.Errorf("with the first host away: %v", err)
	}
	if err := third.DropCA(); err != nil || third.HoldsCA() {
		t.Errorf("DropCA: %v", err)
	}
}

func TestDecodeJoin(t *testing.T) {
	key, _ := newKey()
	good, _ := newCSR(key)
	bigKey, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	big, _ := newCSR(bigKey)
	forged := bytes.Clone(good)
	forged[len(forged)-1] ^= 1
	addr := netip.MustParseAddr("10.0.0.1")
	s := make([]byte, secretBytes)
	for _, tt := range []struct {
		name, want string
		q          joinRequest
	}{
		{"good", "", joinRequest{"b", addr, good, s, ""}},
		{"IPv6", "", joinRequest{"b", netip.MustParseAddr("2001:db8::1"), good, s, ""}},
		{"no name", "empty name", joinRequest{"", addr, good, s, ""}},
		{"a name that is no label", "only a-z", joinRequest{"b.c", addr, good, s, ""}},
		{"a name with a slash", "only a-z", joinRequest{"b/../a", addr, good, s, ""}},
		{"no address", "none that a host", joinRequest{"b", netip.Addr{}, good, s, ""}},
		{"any address", "none that a host", joinRequest{"b", netip.IPv4Unspecified(), good, s, ""}},
		{"a mapped address", "none that a host", joinRequest{"b", netip.MustParseAddr("::ffff:10.0.0.1"), good, s, ""}},
		{"a short secret", "no token's secret", joinRequest{"b", addr, good, s[1:], ""}},
		{"no CSR", "certificate request", joinRequest{"b", addr, nil, s, ""}},
		{"another curve", "P-256", joinRequest{"b", addr, big, s, ""}},
		{"a key that is not held", "does not prove", joinRequest{"b", addr, forged, s, ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, pub, err := decodeJoin(encode(tt.q))
			if tt.want != "" {
				wantError(t, err, tt.want)
			} else if err != nil || !key.PublicKey.Equal(pub) {
				t.Errorf("decodeJoin: %v", err)
			}
		})
	}
}

func FuzzDecodeJoin(f *testing.F) {
	key, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	csr, err := newCSR(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encode(joinRequest{"b", netip.MustParseAddr("10.0.0.1"), csr, make([]byte, secretBytes), ""}))
	f.Add([]byte(`{"node":"b","addr":"fe80::1%eth0"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, _, pub, err := decodeJoin(body)
		if err == nil && (pub == nil || q.Node == "" || !q.Addr.IsValid() || strings.ContainsAny(q.Node, "/. \n")) {
			t.Errorf("accepted: %+v", q)
		}
	})
}
