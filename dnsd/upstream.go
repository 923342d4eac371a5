package dnsd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	checkEvery  = time.Second      // how often resolv.conf is looked at, at most
	avoidFor    = 5 * time.Second  // how long an upstream that failed is asked last
	probeEvery  = 10 * time.Second // how often one upstream is probed for a loop, at most
	loopingFor  = 30 * time.Second // how long one that loops is not asked
	probeAnswer = 2 * time.Second  // how long a probe may take to come back
)

// upstream is a resolver that foreign names are asked of.
type upstream struct {
	addr netip.AddrPort

	mu     sync.Mutex
	avoid  time.Time // ask others first until then
	loop   time.Time // do not ask until then
	probed time.Time
}

func (u *upstream) failed(now time.Time) { u.set(&u.avoid, now.Add(avoidFor)) }
func (u *upstream) answered()            { u.set(&u.avoid, time.Time{}) }

func (u *upstream) set(t *time.Time, to time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	*t = to
}

func (u *upstream) unknown() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.probed.IsZero()
}

func (u *upstream) avoided(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now.Before(u.avoid)
}

func (u *upstream) loops(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now.Before(u.loop)
}

// upstreams are the resolvers to ask: given ones, or those of a resolv.conf,
// which is read again when it changes.
type upstreams struct {
	fixed []netip.AddrPort
	path  string
	own   func(netip.AddrPort) bool // our addresses, which are left out
	log   *slog.Logger

	mu      sync.Mutex
	checked time.Time
	stamp   os.FileInfo // of the file as last read
	list    []*upstream
}

// source names where the upstreams come from.
func (us *upstreams) source() string {
	if len(us.fixed) > 0 {
		return "the setting"
	}
	return us.path
}

// get returns the upstreams in the order they are to be asked, those that
// lately failed last.
func (us *upstreams) get() []*upstream {
	now := time.Now()
	us.mu.Lock()
	defer us.mu.Unlock()
	if us.checked.IsZero() || now.Sub(us.checked) >= checkEvery {
		us.checked = now
		us.reload()
	}
	list := slices.Clone(us.list)
	slices.SortStableFunc(list, func(a, b *upstream) int {
		switch x, y := a.avoided(now), b.avoided(now); {
		case x == y:
			return 0
		case x:
			return 1
		}
		return -1
	})
	return list
}

// reload reads the file if it changed. A file that cannot be read leaves the
// upstreams as they are.
func (us *upstreams) reload() {
	addrs := us.fixed
	if len(addrs) == 0 {
		stamp, err := os.Stat(us.path)
		if err == nil && us.stamp != nil && os.SameFile(stamp, us.stamp) &&
			stamp.ModTime().Equal(us.stamp.ModTime()) && stamp.Size() == us.stamp.Size() {
			return
		}
		var content []byte
		if err == nil {
			content, err = os.ReadFile(us.path)
		}
		if err != nil {
			us.log.Warn("read the host's resolvers; the ones known are kept", "error", err)
			return
		}
		us.stamp = stamp
		addrs = nameservers(content)
	}
	known := us.list
	us.list = nil
	for _, a := range addrs {
		if us.own(a) {
			us.log.Warn("left out as an upstream resolver: it is the mesh's own DNS address", "address", a, "source", us.source())
			continue
		}
		same := func(u *upstream) bool { return u.addr == a }
		switch i := slices.IndexFunc(known, same); {
		case slices.ContainsFunc(us.list, same):
		case i >= 0:
			us.list = append(us.list, known[i])
		default:
			us.list = append(us.list, &upstream{addr: a})
		}
	}
}

// nameservers reads a resolv.conf(5).
func nameservers(content []byte) []netip.AddrPort {
	var addrs []netip.AddrPort
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			addrs = append(addrs, netip.AddrPortFrom(a, 53))
		}
	}
	return addrs
}

// probeZone is what probes are asked for. It lies outside the mesh's zone,
// which a resolver may well send to us by itself without there being a loop.
var probeZone = []byte("\x0ashoal-loop\x04arpa\x00")

// probes are the random names under way, and whom each was asked.
type probes struct {
	mu    sync.Mutex
	asked map[string]*upstream // by first label
}

// probe asks the upstream for a name that only we can know. If it comes back
// to us ([forwarder.caughtLoop]), the upstream leads to us.
func (f *forwarder) probe(u *upstream) {
	now := time.Now()
	u.mu.Lock()
	due := u.probed.IsZero() || now.Sub(u.probed) >= probeEvery
	if due {
		u.probed = now
	}
	u.mu.Unlock()
	if !due {
		return
	}
	var b [16]byte
	rand.Read(b[:])
	token := hex.EncodeToString(b[:])
	f.probes.mu.Lock()
	if f.probes.asked == nil {
		f.probes.asked = map[string]*upstream{}
	}
	f.probes.asked[token] = u
	f.probes.mu.Unlock()
	go func() {
		ctx, cancel := context.WithTimeout(f.ctx, probeAnswer)
		defer cancel()
		m := &dns.Msg{}
		m.SetQuestion(fmt.Sprintf("%s.shoal-loop.arpa.", token), dns.TypeTXT)
		exchangeOver(ctx, "udp", u.addr, m) // what it answers does not matter
		f.probes.mu.Lock()
		defer f.probes.mu.Unlock()
		delete(f.probes.asked, token)
	}()
}

// caughtLoop tells whether a question is one of our probes come back, and if so
// stops asking the upstream it was sent to.
func (f *forwarder) caughtLoop(n *name) bool {
	if n.labels != 3 || !n.below(probeZone, 2) {
		return false
	}
	f.probes.mu.Lock()
	u := f.probes.asked[string(n.label(0))]
	f.probes.mu.Unlock()
	if u == nil {
		return false
	}
	u.set(&u.loop, time.Now().Add(loopingFor))
	f.metrics.failures.WithLabelValues("loop").Inc()
	f.log.Error("an upstream resolver sends our questions back to us: make it ask another than the mesh's DNS address",
		"upstream", u.addr, "notAskedFor", loopingFor)
	return true
}
