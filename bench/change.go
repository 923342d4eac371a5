package bench

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
)

// stage is where a container comes and goes: the only task of service comer, whose VIP
// refuses connections while it is away, and one of two of service web.
type stage struct {
	site    *site     // it runs there
	sites   []*site   // these hear of it
	callers []*caller // they make requests through the VIPs, the first straight to it too
	addr    netip.Addr
	pace    time.Duration // of each caller's requests: a quicker one would take the processor from the engine

	network    string     // the container's
	comer, web netip.Addr // VIPs
	through    []*prober  // of each caller
	straight   *thread    // of the first
}

// visit is one coming and going of the container.
type visit struct {
	toVIP       time.Duration // from the return of docker start to the first answer through the VIP, of the last caller
	toTask      time.Duration // to the first straight from the task
	lastFailure time.Duration // from its death to the beginning of the last request that failed, of any caller
	toDieEvent  time.Duration // from its death to the engine's die event
	failed      int           // requests, of those after its death
}

// create makes the container.
func (s *stage) create() {
	s.site.host.Docker("create", "--network", s.network, "--name", "comer", "--hostname", "comer", "--ip", s.addr.String(),
		"-l", "shoal.service=web", "-l", "shoal.services.comer.vip="+comerVIP, "whoami")
}

// renew puts a new container in its place: one and the same that dies again and again
// is let into rotation ever more slowly.
func (s *stage) renew() {
	s.site.host.Docker("rm", "-f", "comer")
	s.create()
}

// prepare has the container come for the first time, and readies the callers.
func (s *stage) prepare(network string) {
	s.network = network
	s.create()
	for _, c := range s.callers {
		s.through = append(s.through, c.newProber())
	}
	s.straight = s.callers[0].enter(s.callers[0].ns)
	s.site.host.Docker("start", "comer")
	for _, site := range s.sites {
		s.comer, s.web = site.vip("comer", 1), site.vip("web", 2)
	}
	s.site.kill("comer")
	s.site.host.Docker("wait", "comer") // its die event is not taken for the next one's
	s.await(1)
}

// await waits until web has so many tasks in every rotation.
func (s *stage) await(n int) {
	for _, site := range s.sites {
		site.awaitRotation(s.web, n)
	}
}

// visit has the container start and die once.
//
// It dies by SIGKILL from the kernel, of which the engine is told nothing.
func (s *stage) visit() (v visit) {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	b := s.site.bench
	s.renew()
	messages, errs := s.site.docker.Events(ctx, events.ListOptions{Filters: filters.NewArgs(filters.Arg("container", "comer"), filters.Arg("event", "die"))})

	b.must("start the container", s.site.docker.ContainerStart(ctx, "comer", container.StartOptions{}))
	returned := time.Now()
	task, vip := s.firstAnswers()
	if task.IsZero() || vip.IsZero() {
		b.Fatalf("the container has started, and does not answer")
	}
	v.toTask, v.toVIP = task.Sub(returned), vip.Sub(returned)

	s.await(2)
	for i, c := range s.callers {
		s.through[i].start(c.path(s.web, port), s.pace)
	}
	for _, p := range s.through {
		p.await(10)
	}
	killed := s.site.kill("comer")
	select {
	case m := <-messages:
		v.toDieEvent = time.Unix(0, m.TimeNano).Sub(killed)
	case err := <-errs:
		b.Fatalf("the engine's events end: %v", err)
	}
	s.await(1)
	for _, p := range s.through {
		p.await(25)
	}
	for _, p := range s.through {
		n, last := failures(p.stop(), killed)
		v.failed += n
		v.lastFailure = max(v.lastFailure, last)
	}
	return v
}

// firstAnswers are when the container first answers straight, and when through the VIP of
// comer to the last of the callers; zero: it does not.
func (s *stage) firstAnswers() (task, vip time.Time) {
	through := make([]time.Time, len(s.callers))
	var asking sync.WaitGroup
	straight := s.callers[0].path(s.addr, port)
	asking.Go(func() { task = s.straight.firstAnswer(straight, s.pace) })
	for i, c := range s.callers {
		path, thread := c.path(s.comer, port), s.through[i].threads[0]
		asking.Go(func() { through[i] = thread.firstAnswer(path, s.pace) })
	}
	asking.Wait()
	for _, at := range through {
		if at.IsZero() {
			return task, at
		}
		if at.After(vip) {
			vip = at
		}
	}
	return task, vip
}

// changes has the container come and go again and again. label begins each row.
func (s *stage) changes(label string, aim time.Duration) []Row {
	b := s.site.bench
	b.Logf("%s: a container comes and goes", label)
	var visits []visit
	failed := 0
	for range b.rounds {
		v := s.visit()
		visits = append(visits, v)
		failed += v.failed
		b.Logf("%d ms to the first answer, %d ms from its death to the last failure", v.toVIP.Milliseconds(), v.lastFailure.Milliseconds())
	}
	b.Logf("%.1f requests failed at each death", float64(failed)/float64(b.rounds))
	row := func(what string, p int, ours, other func(visit) time.Duration, against string) Row {
		pick := func(f func(visit) time.Duration) time.Duration {
			var all []time.Duration
			for _, v := range visits {
				all = append(all, f(v))
			}
			return percentile(all, p)
		}
		took := pick(ours)
		added := pick(func(v visit) time.Duration { return ours(v) - other(v) })
		return Row{What: fmt.Sprintf("%s: %s, p%d of %d", label, what, p, b.rounds),
			Shoal:   fmt.Sprintf("%d ms (%+d ms)", took.Milliseconds(), added.Milliseconds()),
			Against: fmt.Sprintf("%d ms %s", pick(other).Milliseconds(), against)}.within(aim, took)
	}
	var rows []Row
	for _, p := range []int{50, 99} {
		rows = append(rows, row("`docker start` returning to first answer through the VIP", p,
			func(v visit) time.Duration { return v.toVIP },
			func(v visit) time.Duration { return v.toTask }, "straight from the task"))
	}
	for _, p := range []int{50, 99} {
		rows = append(rows, row("death to the last failed request", p,
			func(v visit) time.Duration { return v.lastFailure },
			func(v visit) time.Duration { return v.toDieEvent }, "to the engine's die event"))
	}
	return rows
}
