package bench

import (
	"fmt"
	"net/netip"
	"os"
	"time"
)

// A client makes so many new connections a second to a VIP, and then straight to its
// task. One that is not answered within the limit has failed.
const (
	straightPace  = 5 * time.Millisecond
	straightLimit = time.Second
)

// straightAfter makes connections to a VIP, one every pace, and then to its task from the
// same address, whose ports are so few that most are used for both. A balancer
// that knows replies by task, client and their ports alone takes those of the
// latter for replies to the former for as long as it remembers them.
func (c *caller) straightAfter(web, task netip.Addr, pace time.Duration) Row {
	c.Logf("new connections to the VIP, then straight to its task")
	long := 10 * time.Second
	if c.quick {
		long = time.Second
	}
	count := int(long / pace)
	c.portRange(count + count/10)
	defer c.portRange(0)
	p := c.newProber()
	var took time.Duration
	ask := func(path path, n int) (failed, of int) {
		begun := time.Now()
		p.startWithin(path, pace, straightLimit)
		p.await(n)
		took = time.Since(begun)
		probes := p.stop()
		failed, _ = failures(probes, time.Time{})
		return failed, len(probes)
	}
	vip := c.path(web, port)
	fresh := c.path(task, port)
	straight := path{c, vip.from, netip.AddrPortFrom(task, port)}

	alone, ofAlone := ask(fresh, count/2)
	through, ofThrough := ask(vip, count)
	reached := float64(count) / took.Seconds()
	after, ofAfter := ask(straight, count/2)
	return Row{
		What:    fmt.Sprintf("straight to the task after %s new connections to its VIP, %.0f/s: failed requests", thousands(ofThrough), reached),
		Shoal:   fmt.Sprintf("%d of %s; to the VIP %d", after, thousands(ofAfter), through),
		Against: fmt.Sprintf("%d of %s straight, with none to the VIP before", alone, thousands(ofAlone)),
		Aim:     "0", Met: after == 0,
	}
}

// portRange lets the client choose among so many ports; 0: as many as is usual.
func (c *caller) portRange(n int) {
	first, last := 20_000, 20_000+n-1
	if n == 0 {
		first, last = 32_768, 60_999
	}
	c.must("set the range of ports", c.do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "%d %d", first, last), 0)
	}))
}
