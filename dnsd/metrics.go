package dnsd

import (
	"fmt"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts. The counters of the fast path are looked up beforehand.
type metrics struct {
	own, forwarded, refused, malformed prometheus.Counter
	hits, misses                       prometheus.Counter
	rcodes                             [dns.RcodeBadVers + 1]prometheus.Counter
	upstream                           prometheus.Histogram
	failures                           *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	queries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "shoal_dns_queries_total", Help: "DNS queries, by what became of them: own, forwarded, refused, malformed.",
	}, []string{"kind"})
	responses := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "shoal_dns_responses_total", Help: "DNS responses sent, by response code.",
	}, []string{"rcode"})
	cached := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "shoal_dns_cache_lookups_total", Help: "Look-ups of forwarded questions in the cache: hit, miss.",
	}, []string{"result"})
	m := &metrics{
		own: queries.WithLabelValues("own"), forwarded: queries.WithLabelValues("forwarded"),
		refused: queries.WithLabelValues("refused"), malformed: queries.WithLabelValues("malformed"),
		hits: cached.WithLabelValues("hit"), misses: cached.WithLabelValues("miss"),
		upstream: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "shoal_dns_upstream_duration_seconds", Help: "Time an upstream resolver took to answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14), // to 4 s
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shoal_dns_upstream_failures_total",
			Help: "Failed questions to upstream resolvers: timeout, network, malformed, rcode, loop, overload, rebinding.",
		}, []string{"reason"}),
	}
	for rcode := range m.rcodes {
		m.rcodes[rcode] = responses.WithLabelValues(rcodeText(rcode))
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{queries, responses, cached, m.upstream, m.failures} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register DNS metrics: %w", err)
		}
	}
	return m, nil
}

// rcodeText is "NOERROR", "NXDOMAIN" and so on, or the number.
func rcodeText(rcode int) string {
	if rcode == dns.RcodeBadVers {
		return "BADVERS" // the same number is BADSIG in TSIG
	}
	if s, ok := dns.RcodeToString[rcode]; ok {
		return s
	}
	return fmt.Sprint(rcode)
}
