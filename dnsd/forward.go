package dnsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/miekg/dns"
)

// forwarder asks upstream resolvers, once however many want to know.
type forwarder struct {
	ctx       context.Context // ends with the server
	timeout   time.Duration   // for one question, over all upstreams
	upstreams *upstreams
	cache     *cache
	guard     *rebindGuard
	flights   flights
	metrics   *metrics
	log       *slog.Logger
	probes    probes
}

// resolve asks the upstreams, one after the other and from the first again,
// until one has an answer, the time is up, or ctx ends.
func (f *forwarder) resolve(ctx context.Context, q *query) (*packed, error) {
	return f.flights.do(ctx, f.ctx, string(q.key(nil)), func(ctx context.Context) (*packed, error) { return f.ask(ctx, q) })
}

func (f *forwarder) ask(ctx context.Context, q *query) (*packed, error) {
	list := f.upstreams.get()
	for _, u := range list {
		if u.unknown() {
			f.probe(u)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()

	var lastErr error
	for try := 0; ctx.Err() == nil; try++ {
		asked, told := 0, false // told: one has said that it cannot
		for _, u := range list {
			if u.loops(time.Now()) {
				lastErr = fmt.Errorf("upstream %s sends our questions back to us", u.addr)
				continue
			}
			asked++
			m, err := f.exchange(ctx, u, q, try)
			switch {
			case err != nil:
				lastErr = err
			case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
				if err := f.guard.check(q.name.String(), m); err != nil {
					return nil, err
				}
				p, err := pack(q, m, time.Now())
				if err == nil {
					f.cache.put(p)
					return p, nil
				}
				f.metrics.failures.WithLabelValues("malformed").Inc()
				lastErr = fmt.Errorf("upstream %s: %w", u.addr, err)
				told = true
			default:
				f.metrics.failures.WithLabelValues("rcode").Inc()
				lastErr = fmt.Errorf("upstream %s says %s", u.addr, rcodeText(m.Rcode))
				told = true
			}
		}
		switch {
		case len(list) == 0:
			return nil, fmt.Errorf("no upstream resolver: %s names none", f.upstreams.source())
		case asked == 0, told: // all had their turn, and time will not better their answers
			return nil, lastErr
		}
		// An upstream that refuses at once is not asked in a tight loop.
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond << min(try, 4)):
		}
	}
	return nil, fmt.Errorf("no upstream resolver answered within %s: %w", f.timeout, lastErr)
}

// exchange asks one upstream, again without EDNS where it does not know that.
// The first try is short, as the next upstream may be quicker; later ones
// leave a slow resolver more time.
func (f *forwarder) exchange(ctx context.Context, u *upstream, q *query, try int) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout/4<<min(try, 1))
	defer cancel()
	begin := time.Now()
	m, err := exchange(ctx, u.addr, upstreamQuestion(q, true))
	if err == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
		m, err = exchange(ctx, u.addr, upstreamQuestion(q, false))
	}
	if err != nil {
		reason := "network"
		if errors.Is(err, context.DeadlineExceeded) {
			reason = "timeout"
			f.probe(u)
		}
		if errors.Is(err, errMalformed) {
			reason = "malformed"
		}
		f.metrics.failures.WithLabelValues(reason).Inc()
		u.failed(time.Now())
		return nil, fmt.Errorf("upstream %s: %w", u.addr, err)
	}
	f.metrics.upstream.Observe(time.Since(begin).Seconds())
	u.answered()
	return m, nil
}

// upstreamQuestion is the question as we ask it: nothing of the client's goes
// with it but DO and CD, no address, no cookie.
func upstreamQuestion(q *query, edns bool) *dns.Msg {
	m := &dns.Msg{}
	m.RecursionDesired = true
	m.AuthenticatedData = true // tell whether it is validated: RFC 6840 section 5.7
	m.CheckingDisabled = q.cd
	m.Question = []dns.Question{{Name: q.name.String(), Qtype: q.qtype, Qclass: dns.ClassINET}}
	if edns {
		m.SetEdns0(udpSize, q.do)
	}
	return m
}
