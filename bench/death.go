package bench

import (
	"fmt"
	"time"
)

// deathPace is how often the client makes a request.
const deathPace = 20 * time.Millisecond

// deaths cuts host b off and lets it back, again and again, under requests from a container
// on host a to a service with a task on b and one on c.
func (c *cluster) deaths() []Row {
	c.Logf("a host is cut off and comes back")
	c.b.run(meshNetwork, "web", c.addr(c.b, 12), "-l", "shoal.service=web", "whoami")
	vip := c.a.vip("web", 2)
	p := c.clients[c.a].newProber()
	rounds := c.rounds / 2
	var last, back []time.Duration
	for range rounds {
		for _, s := range c.sites() { // each has to know that the others live
			s.awaitRotation(vip, 2)
		}
		p.start(c.clients[c.a].path(vip, port), deathPace)
		p.await(20)
		cut := time.Now()
		c.b.host.CutOff()
		c.a.awaitRotation(vip, 1)
		p.await(40)
		_, failed := failures(p.stop(), cut)
		last = append(last, failed)

		joined := time.Now()
		c.b.host.Reconnect()
		back = append(back, c.a.awaitRotation(vip, 2).Sub(joined))
	}
	var rows []Row
	row := func(what string, times []time.Duration) {
		for _, p := range []int{50, 99} {
			t := percentile(times, p)
			rows = append(rows, Row{What: fmt.Sprintf("three hosts: %s, p%d of %d", what, p, rounds),
				Shoal: fmt.Sprintf("%.1f s", t.Seconds())}.within(3*time.Second, t))
		}
	}
	row("a host cut off to the last failed request", last)
	row("its return to its tasks in rotation", back)
	return rows
}
