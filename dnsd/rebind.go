package dnsd

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/miekg/dns"

	"shoal/model"
)

// rebindGuard finds foreign names that lead to the mesh. Whoever owns a domain
// could have a browser, or a program that fetches what it is told to, reach
// services under a name of his ("DNS rebinding"): what such a program may do by
// names and origins it might then do to a service of the mesh.
//
// As dnsmasq does with stop-dns-rebind, the whole answer is dropped: the client
// gets none (NODATA). To take out single records, as Unbound's private-address
// does, would break their signatures (RFC 4034 section 3.1.8.1: of whole sets).
type rebindGuard struct {
	log       *slog.Logger
	metrics   *metrics
	protected atomic.Pointer[[]netip.Prefix]
	told      *lru.Cache[string, struct{}] // names that were logged
}

// maxTold bounds the names that are remembered as logged.
const maxTold = 256

func newRebindGuard(log *slog.Logger, m *metrics) (*rebindGuard, error) {
	told, err := lru.New[string, struct{}](maxTold)
	if err != nil {
		return nil, fmt.Errorf("DNS: %w", err)
	}
	g := &rebindGuard{log: log, metrics: m, told: told}
	g.protected.Store(new([]netip.Prefix))
	return g, nil
}

// meshAddrs are the addresses of VIPs and of the mesh's containers.
func meshAddrs(o *Options, snap *model.Snapshot) []netip.Prefix {
	all := append([]netip.Prefix{o.Pool}, o.Subnets...)
	for _, n := range snap.Nodes {
		all = append(all, n.Subnet)
	}
	all = slices.DeleteFunc(all, func(p netip.Prefix) bool { return !p.IsValid() })
	for i := range all {
		all[i] = all[i].Masked()
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}

// protect takes the addresses that no foreign name may lead to, and tells
// whether they are others than before.
func (g *rebindGuard) protect(addrs []netip.Prefix) (changed bool) {
	return !slices.Equal(*g.protected.Swap(&addrs), addrs)
}

// rebindError says that a foreign name leads to the mesh.
type rebindError struct {
	name string
	addr netip.Addr
}

func (e *rebindError) Error() string {
	return fmt.Sprintf("%s leads to %s, an address of the mesh, which no name of others may", e.name, e.addr)
}

// check returns a [rebindError] where an upstream's answer holds an address of
// the mesh. It logs each name once.
func (g *rebindGuard) check(name string, m *dns.Msg) error {
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			for _, b := range addressesIn(rr) {
				a, ok := netip.AddrFromSlice(b)
				a = a.Unmap() // ::ffff:10.96.0.1 leads there as well
				if !ok || !slices.ContainsFunc(*g.protected.Load(), func(p netip.Prefix) bool { return p.Contains(a) }) {
					continue
				}
				g.metrics.failures.WithLabelValues("rebinding").Inc()
				if told, _ := g.told.ContainsOrAdd(name, struct{}{}); !told {
					g.log.Warn("an upstream resolver's answer leads to an address of the mesh and is not passed on (DNS rebinding)", "name", name, "address", a)
				}
				return &rebindError{name: name, addr: a}
			}
		}
	}
	return nil
}

// addressesIn are the addresses that a record tells clients to connect to.
func addressesIn(rr dns.RR) []net.IP {
	switch r := rr.(type) {
	case *dns.A:
		return []net.IP{r.A}
	case *dns.AAAA:
		return []net.IP{r.AAAA}
	case *dns.HTTPS:
		return hints(&r.SVCB)
	case *dns.SVCB:
		return hints(r)
	}
	return nil
}

// hints are the addresses in a record of RFC 9460 (section 7.3).
func hints(r *dns.SVCB) (all []net.IP) {
	for _, v := range r.Value {
		switch h := v.(type) {
		case *dns.SVCBIPv4Hint:
			all = append(all, h.Hint...)
		case *dns.SVCBIPv6Hint:
			all = append(all, h.Hint...)
		}
	}
	return all
}
