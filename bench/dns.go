package bench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"shoal/lab"
)

const (
	dnsSlice = 10 * time.Millisecond // of one server's turn
	window   = 32                    // questions under way at a time
)

// asker asks for names of services in a connected UDP socket.
type asker struct {
	fd        int
	questions [][]byte
	process   int // of the server, for its processor time
	size      int // of an answer
}

// dns measures the DNS server with the names of all services in its table,
// against two that know only one answer: an echo of as many bytes, and a
// handler of the usual library.
func (w *world) dns() []Row {
	w.Logf("DNS")
	names := make([][]byte, w.fakes)
	for i := range names {
		m := new(dns.Msg).SetQuestion(fakeID(i).Name+".mesh.internal.", dns.TypeA)
		b, err := m.Pack()
		w.must("pack a question", err)
		names[i] = b
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })

	self, err := os.Executable()
	w.must("find this program's own file", err)
	gateway := netip.MustParsePrefix(subnet).Addr().Next()
	other := func(kind string, port uint16) *asker {
		at := netip.AddrPortFrom(gateway, port)
		p := w.host.Start(self, "-serve", kind, at.String())
		w.Cleanup(func() { _ = p.Signal(unix.SIGKILL) })
		return w.asker(at, names, p.Pid())
	}
	askers := []*asker{
		w.asker(netip.AddrPortFrom(dnsAddr, 53), names, w.host.Agent().Pid()),
		other("echo", 5301),
		other("handler", 5302),
	}
	for _, a := range askers[1:] {
		if a.size != askers[0].size {
			w.Fatalf("the servers' answers have %d and %d bytes", askers[0].size, a.size)
		}
	}
	for _, name := range names[:1000] { // right, before speed counts
		w.must("ask the DNS server", w.client.do(func() error { return askers[0].check(name) }))
	}
	w.Logf("DNS: the answers are right")

	t := make([][]stretch, len(askers)) // of each server, by round
	for start, n := time.Now(), 0; time.Since(start) < 3*w.long; n++ {
		for i := range askers {
			if n%2 == 1 {
				i = len(askers) - 1 - i
			}
			w.must("ask", w.client.do(func() error {
				s, err := askers[i].slice()
				t[i] = append(t[i], s)
				return err
			}))
		}
	}
	return append(dnsRows(t[0], t[1], "an echo of as many bytes"),
		dnsRows(t[0], t[2], "a bare handler of miekg/dns, with one name")...)
}

// stretch is what one slice gave: so many answers in that time, for which the server
// had so much of the processor.
type stretch struct {
	answers   float64
	took, cpu time.Duration
}

func dnsRows(ours, others []stretch, what string) []Row {
	rates := func(side []stretch) (all []float64) {
		for _, s := range side {
			all = append(all, s.answers/s.took.Seconds())
		}
		return all
	}
	perQuery := func(side []stretch) time.Duration {
		var cpu time.Duration
		n := 0.0
		for _, s := range side {
			cpu += s.cpu
			n += s.answers
		}
		return time.Duration(float64(cpu) / n)
	}
	a, b := rates(ours), rates(others)
	ratio := make([]float64, len(a))
	for i := range a {
		ratio[i] = a[i] / b[i]
	}
	x, y := perQuery(ours), perQuery(others)
	return []Row{
		{What: "DNS, 10,000 services: queries a second", Shoal: fmt.Sprintf("%.0f/s", percentile(a, 50)),
			Against: fmt.Sprintf("%.0f/s, %s", percentile(b, 50), what), Ratio: spreadOf(ratio)},
		{What: "DNS, 10,000 services: the server's processor time a query", Shoal: fmt.Sprintf("%.1f µs", us(x)),
			Against: fmt.Sprintf("%.1f µs, %s", us(y), what), Ratio: exactly(float64(x) / float64(y))},
	}
}

func us(d time.Duration) float64 { return float64(d) / 1e3 }

// asker opens a socket of the client's to a server, and waits until that answers.
func (w *world) asker(server netip.AddrPort, questions [][]byte, process int) *asker {
	a := &asker{questions: questions, process: process}
	w.must("open a socket", w.client.do(func() (err error) {
		if a.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		tv := unix.NsecToTimeval(time.Second.Nanoseconds())
		if err := unix.SetsockoptTimeval(a.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return err
		}
		return unix.Connect(a.fd, &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()})
	}))
	w.Cleanup(func() { unix.Close(a.fd) })
	lab.Eventually(w, 10*time.Second, server.String()+" answers", func() error {
		return w.client.do(func() error { return a.check(questions[0]) })
	})
	return a
}

// check asks one question, and reads the answer closely.
func (a *asker) check(question []byte) error {
	if _, err := unix.Write(a.fd, question); err != nil {
		return err
	}
	buf := make([]byte, 512)
	n, err := unix.Read(a.fd, buf)
	if err != nil {
		return err
	}
	m := new(dns.Msg)
	if err := m.Unpack(buf[:n]); err != nil {
		return err
	}
	if m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
		return fmt.Errorf("the answer is not one address: %v", m)
	}
	a.size = n
	return nil
}

// slice asks for a slice's time, with a window of questions under way.
func (a *asker) slice() (s stretch, err error) {
	before, err := processorTime(a.process)
	if err != nil {
		return s, err
	}
	buf := make([]byte, 512)
	start := time.Now()
	for s.took < dnsSlice {
		for range window {
			if _, err := unix.Write(a.fd, a.questions[rand.IntN(len(a.questions))]); err != nil {
				return s, fmt.Errorf("ask: %w", err)
			}
		}
		for range window {
			n, err := unix.Read(a.fd, buf)
			if err != nil {
				return s, fmt.Errorf("wait for an answer: %w", err)
			}
			if n != a.size {
				return s, fmt.Errorf("an answer of %d bytes among those of %d", n, a.size)
			}
		}
		s.answers += window
		s.took = time.Since(start)
	}
	after, err := processorTime(a.process)
	s.cpu = after - before
	return s, err
}

// processorTime is how long a process has had a processor: its CPU clock,
// clock_getcpuclockid(3), which unlike /proc/PID/stat does not count in ticks.
func processorTime(pid int) (time.Duration, error) {
	const clock = 2 // CPUCLOCK_SCHED, include/linux/posix-timers.h
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|clock), &t); err != nil {
		return 0, fmt.Errorf("read the processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// Serve is a server to measure dnsd against, at addr, over UDP: "echo"
// sends back what it gets with one address record added; "handler" answers with
// miekg/dns. It returns only an error.
func Serve(kind, addr string) error {
	switch kind {
	case "echo":
		return serveEcho(addr)
	case "handler":
		return dns.ListenAndServe(addr, "udp", dns.HandlerFunc(handle))
	}
	return errors.New("want echo or handler, and an address")
}
