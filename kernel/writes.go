package kernel

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Writes counts the writes to the kernel by facility ("ipset", "ipvs",
// "iptables", "sysctl", "route", "rule", "neighbour", "link", "bridge", "netns",
// "conntrack", "bpf", "module", "socket"). A batch that goes to
// the kernel in one message counts one for each object in it.
var Writes = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "shoal_kernel_writes_total",
	Help: "Writes to the kernel, by facility.",
}, []string{"facility"})

var total atomic.Int64

// Wrote counts n writes.
func Wrote(facility string, n int) {
	if n > 0 {
		total.Add(int64(n))
		Writes.WithLabelValues(facility).Add(float64(n))
	}
}

// Total is the number of writes of this process so far, of all facilities.
func Total() int { return int(total.Load()) }
