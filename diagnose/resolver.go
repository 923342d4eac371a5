package diagnose

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"shoal/kernel"
)

// resolver is what a container's C library looks names up with: resolv.conf(5).
type resolver struct {
	servers []netip.Addr
	search  []string
	ndots   int
}

// maxServers and maxSearch are how many a C library uses.
const (
	maxServers = 3
	maxSearch  = 6
	maxFile    = 64 << 10 // of a container's file
)

// parseResolver reads a resolv.conf.
func parseResolver(text string) resolver {
	r := resolver{ndots: 1}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil && len(r.servers) < maxServers {
				r.servers = append(r.servers, a)
			}
		case "search", "domain":
			r.search = nil
			for _, d := range f[1:min(len(f), 1+maxSearch)] {
				if d = strings.TrimSuffix(d, "."); d != "" {
					r.search = append(r.search, d)
				}
			}
		case "options":
			for _, o := range f[1:] {
				if v, ok := strings.CutPrefix(o, "ndots:"); ok {
					if n, err := strconv.Atoi(v); err == nil {
						r.ndots = min(max(n, 0), 15)
					}
				}
			}
		}
	}
	return r
}

// candidates are the names that are asked for, in turn.
func (r resolver) candidates(name string) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	var all []string
	for _, d := range r.search {
		all = append(all, name+"."+d+".")
	}
	if strings.Count(name, ".") >= r.ndots {
		return append([]string{name + "."}, all...)
	}
	return append(all, name+".")
}

// parseHosts finds the IPv4 addresses of a name in a hosts(5).
func parseHosts(text, name string) (found []netip.Addr) {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		a, err := netip.ParseAddr(f[0])
		if err == nil && a.Is4() && slices.ContainsFunc(f[1:], func(s string) bool { return strings.ToLower(s) == name }) {
			found = append(found, a)
		}
	}
	return found
}

// said is what a container's resolver answers.
type said struct {
	name  string // that was answered
	by    netip.Addr
	addrs []netip.Addr
	rcode string
	err   error // no server answered
}

// askTime is how long a resolver is waited for.
const askTime = time.Second

// ask looks a name up as a process does whose resolver it is, in its network.
func (r resolver) ask(ctx context.Context, pid int, name string) (last said) {
	for _, full := range r.candidates(name) {
		for _, server := range r.servers {
			got := askFrom(ctx, pid, server, full)
			if got.err != nil {
				if last.rcode == "" {
					last = got
				}
				continue
			}
			last = got
			break
		}
		if len(last.addrs) > 0 || ctx.Err() != nil {
			return last
		}
	}
	return last
}

// askFrom asks one server in the network of a process.
func askFrom(ctx context.Context, pid int, server netip.Addr, name string) said {
	s := said{name: name, by: server}
	var conn net.Conn
	s.err = kernel.InNetwork(pid, func() (err error) {
		conn, err = net.DialTimeout("udp", netip.AddrPortFrom(server, 53).String(), askTime)
		return err
	})
	if s.err != nil {
		return s
	}
	c := dns.Client{Timeout: askTime}
	reply, _, err := c.ExchangeWithConnContext(ctx, new(dns.Msg).SetQuestion(name, dns.TypeA), &dns.Conn{Conn: conn})
	conn.Close()
	if err != nil {
		s.err = err
		return s
	}
	s.rcode = dns.RcodeToString[reply.Rcode]
	if reply.Rcode == dns.RcodeServerFailure || reply.Rcode == dns.RcodeRefused {
		s.err = fmt.Errorf("it answers %s", s.rcode)
		return s
	}
	for _, rr := range reply.Answer {
		if a, ok := rr.(*dns.A); ok {
			if addr, ok := netip.AddrFromSlice(a.A); ok {
				s.addrs = append(s.addrs, addr.Unmap())
			}
		}
	}
	slices.SortFunc(s.addrs, netip.Addr.Compare)
	return s
}
