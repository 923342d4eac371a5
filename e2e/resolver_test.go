//go:build e2e

package e2e

import (
	"maps"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netns"

	"shoal/lab"
)

// resolver is a DNS server on a machine of the lab, of the test's own.
type resolver struct {
	names map[string]string // to IPv4 addresses

	mu    sync.Mutex
	asked map[string]int // by name
}

// startResolver starts one on the machine's port 53, over UDP, for as long as the test lasts. Other names than those given
// are not there.
func startResolver(t *testing.T, m *lab.Machine, names map[string]string) *resolver {
	t.Helper()
	r := &resolver{names: names, asked: map[string]int{}}
	var conn net.PacketConn
	err := inNetns(m.Netns(), func() (err error) {
		conn, err = net.ListenPacket("udp4", m.Addr().String()+":53")
		return err
	})
	if err != nil {
		t.Fatalf("start a resolver on %s: %v", m.Name(), err)
	}
	server := &dns.Server{PacketConn: conn, Handler: r}
	ended := make(chan error, 1)
	go func() { ended <- server.ActivateAndServe() }()
	t.Cleanup(func() {
		conn.Close()
		<-ended
	})
	return r
}

// ServeDNS answers a question.
func (r *resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	name := dns.CanonicalName(q.Question[0].Name)
	r.mu.Lock()
	r.asked[name]++
	r.mu.Unlock()
	reply := new(dns.Msg).SetReply(q)
	soa := &dns.SOA{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: ".", Mbox: ".", Minttl: 60}
	switch addr, known := r.names[name]; {
	case !known:
		reply.Rcode, reply.Ns = dns.RcodeNameError, []dns.RR{soa}
	case q.Question[0].Qtype == dns.TypeA:
		reply.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(addr)}}
	default:
		reply.Ns = []dns.RR{soa}
	}
	_ = w.WriteMsg(reply) // who has gone needs no answer
}

// all is how often it was asked what.
func (r *resolver) all() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.asked)
}

func (r *resolver) count(name string) int { return r.all()[name] }

// inNetns runs f in a network namespace. Sockets that it opens stay there.
func inNetns(path string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromPath(path)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}
