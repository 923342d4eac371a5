package dnsd

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestLimiterTakesFromThoseWhoHaveMost(t *testing.T) {
	client := func(n, i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(n), byte(i >> 8), byte(i)}) }
	network := func(n int) netip.Prefix { return netip.PrefixFrom(client(n, 0), 16) }
	for _, test := range []struct {
		name  string
		each  []int // how many each of so many clients of network 1 wants, one client after the other
		own   int   // how many another client of that network then gets
		other int   // and how many, instead, one of network 2
	}{
		{"nobody", nil, 128, 128},
		{"one greedy client", []int{5000}, 128, 128},
		{"all is just taken", repeat(8, 128), 113, 128},
		{"many greedy clients", repeat(50, 5000), 20, 128},
		{"a flood with forged addresses", repeat(1024, 1), 0, 128},
		{"two each", repeat(512, 2), 1, 128},
		{"one greedy among modest ones", append(repeat(900, 1), 5000), 62, 128},
	} {
		t.Run(test.name, func(t *testing.T) {
			for n, want := range map[int]int{1: test.own, 2: test.other} {
				l := newLimiter(1024, 128)
				var taken atomic.Int32
				take := func(a netip.Addr, of netip.Prefix, most int) (got int) {
					for got < most {
						if _, ok := l.acquire(a, of, func() { taken.Add(1) }); !ok {
							break
						}
						got++
					}
					return got
				}
				for i, each := range test.each {
					take(client(1, i), network(1), each)
				}
				got := take(client(n, 9999), network(n), 5000)
				if got != want {
					t.Errorf("a client of network %d gets %d, want %d", n, got, want)
				}
				if l.total > 1024 {
					t.Errorf("there are %d, 1024 is the most", l.total)
				}
				sum := 0
				for _, n := range l.networks {
					inNetwork := 0
					for _, shares := range n.clients {
						inNetwork += len(shares)
					}
					if inNetwork != n.total {
						t.Errorf("a network has %d, and says %d", inNetwork, n.total)
					}
					sum += inNetwork
				}
				if sum != l.total {
					t.Errorf("there are %d, and it says %d", sum, l.total)
				}
			}
		})
	}
}

func repeat(n, each int) []int { return slices.Repeat([]int{each}, n) }

func TestWhatIsReleasedIsForgotten(t *testing.T) {
	l := newLimiter(100, 100)
	of := netip.MustParsePrefix("10.0.0.0/8")
	var releases []func()
	taken := make(chan int, 200)
	for i := range 100 {
		release, ok := l.acquire(ip("10.0.0.1"), of, func() { taken <- i })
		if !ok {
			t.Fatalf("no room for number %d", i)
		}
		releases = append(releases, release)
	}
	release, ok := l.acquire(ip("10.0.0.2"), of, nil)
	if !ok {
		t.Fatal("who has nothing gets nothing")
	}
	if n := <-taken; n != 0 {
		t.Errorf("number %d was taken, not the oldest", n)
	}
	for _, release := range append(releases, release) { // the one that was taken as well
		release()
	}
	if l.total != 0 || len(l.networks) != 0 {
		t.Errorf("left are %d, of %v", l.total, l.networks)
	}
}

// TestAskingEndsWithTheLastWhoWaits: what nobody waits for any more is not asked on.
func TestAskingEndsWithTheLastWhoWaits(t *testing.T) {
	var f flights
	began, ended := make(chan struct{}), make(chan struct{})
	ask := func(ctx context.Context) (*packed, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}
	one, stopOne := context.WithCancelCause(t.Context())
	two, stopTwo := context.WithCancelCause(t.Context())
	errs := make(chan error)
	for _, ctx := range []context.Context{one, two} {
		go func() {
			_, err := f.do(ctx, t.Context(), "key", ask)
			errs <- err
		}()
	}
	<-began
	eventually(t, "both wait", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.under["key"].waiting == 2
	})
	stopOne(errOverload)
	if err := <-errs; err != errOverload {
		t.Errorf("who was stopped got %v", err)
	}
	select {
	case <-ended:
		t.Error("asking ended while one waits")
	default:
	}
	stopTwo(errOverload)
	<-errs
	<-ended
	if len(f.under) > 0 {
		t.Error("it is still under way")
	}
	p, err := f.do(t.Context(), t.Context(), "key", func(context.Context) (*packed, error) { return new(packed), nil })
	if p == nil || err != nil {
		t.Errorf("asked anew: %v, %v", p, err)
	}
}

// TestNobodyIsStarvedByOthers sends the server 5,000 questions that no upstream
// answers, from one client, and from many on one network.
func TestNobodyIsStarvedByOthers(t *testing.T) {
	for _, clients := range []int{1, 50} {
		t.Run(fmt.Sprintf("%d clients", clients), func(t *testing.T) {
			var asked atomic.Int32
			o := options()
			o.Timeout = time.Minute
			o.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.5.0/24")} // a network of its own
			o.Upstreams = []netip.AddrPort{upstreamServer(t, func(w dns.ResponseWriter, m *dns.Msg) {
				asked.Add(1)
				if m.Question[0].Name == "good.example." {
					w.WriteMsg(replyTo(m, "good.example. 0 IN A 192.0.2.1"))
				}
			})}
			s := started(t, o)
			var conns []net.Conn
			for c := range clients {
				from := &net.UDPAddr{IP: net.IPv4(127, 0, 5, byte(c+1))}
				conn, err := net.DialUDP("udp4", from, net.UDPAddrFromAddrPort(s.Addrs()[0]))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conns = append(conns, conn)
			}
			sent, last, quiet := 0, int32(-1), 0
			eventually(t, "5,000 questions are sent, and as many as may be are under way", func() bool {
				s.inFlight.mu.Lock()
				full := s.inFlight.total >= min(clients*maxInFlightEach, maxInFlight)
				s.inFlight.mu.Unlock()
				if sent < 5000 || !full { // some may get lost on the way to the server
					for c, conn := range conns {
						for range max(1, 200/clients) {
							conn.Write(question(fmt.Sprintf("n%d.c%d.example", sent, c), "A"))
							sent++
						}
					}
					return false
				}
				if n := asked.Load(); n != last { // the upstream has work to do
					last, quiet = n, 0
				}
				quiet++
				return quiet > 20
			})
			for _, from := range []string{"127.0.5.200", "127.0.0.1"} {
				mustContain(t, ask(t, s, "dig", "-b", from, "good.example"), "192.0.2.1")
			}
		})
	}
}

func TestNetworkOfAClient(t *testing.T) {
	o := options()
	o.Allow = []netip.Prefix{netip.MustParsePrefix("10.244.6.0/24")}
	l := unstarted(t, o).table.Load().allowed
	for addr, want := range map[string]string{
		"10.244.1.1": "10.244.0.0/16", "10.244.6.1": "10.244.6.0/24", "127.0.0.9": "127.0.0.0/8",
		"192.0.2.1": "192.0.2.1/32", "fd00::1": "fd00::1/128",
	} {
		if got := l.networkOf(ip(addr)).String(); got != want {
			t.Errorf("%s is of %s, want %s", addr, got, want)
		}
	}
}
