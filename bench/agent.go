package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"shoal/model"
)

// The time at rest is cut into so many parts, for the quartiles.
const restParts = 6

// rest is the agent while nothing happens.
type rest struct {
	memory memory
	engine int           // bytes, of the Docker engine beside it
	cpu    []float64     // part of one processor, by part of the time
	docker []float64     // that of the Docker engine
	pass   time.Duration // a full pass of the balancer: everything read back and compared
	writes float64       // to the kernel, over all passes
}

// memory is what an agent and the process of its store hold (RSS), in bytes. The program's own pages, which they share, count
// for each.
type memory struct{ agent, store int }

func (w *world) memory() (m memory) {
	agent := w.host.Agent().Pid()
	for _, p := range w.withStore(agent) {
		if rss := w.status(p, "VmRSS"); p == agent {
			m.agent = rss
		} else {
			m.store += rss
		}
	}
	return m
}

// row tells of it, with an aim for the agent's part.
func (m memory) row(what, against string, by, aim int) Row {
	return Row{What: "agent, " + what + ": memory (RSS), and its store's", Shoal: mb(m.agent) + ", and " + mb(m.store), Against: against,
		Ratio: exactly(float64(m.agent) / float64(by)), Aim: "≤ " + mb(aim) + " without its store", Met: m.agent <= aim}
}

func mb(bytes int) string { return fmt.Sprintf("%.0f MB", float64(bytes)/1e6) }

// full is the agent with ten tasks a service, at rest as with fewer.
func (w *world) full(one rest) []Row {
	w.fillTasks()
	w.Logf("memory, just after: %s", mb(w.memory().agent))
	return []Row{w.rest().memory.row(fmt.Sprintf("%s × %d tasks", services(w.fakes+1), manyTasks), mb(one.memory.agent)+" with 1 service", one.memory.agent, 250e6)}
}

// rest looks at the agent while nothing happens.
func (w *world) rest() (r rest) {
	w.Logf("the agent at rest, %s", services(w.fakes+1))
	settle, long := 15*time.Second, 30*time.Second
	if w.quick {
		settle, long = time.Second, 3*time.Second
	}
	time.Sleep(settle) // it gives memory back some ten seconds after it came to rest
	agent, engine := w.withStore(w.host.Agent().Pid()), w.host.Engine().Pid()
	before := w.metrics()
	a, e := w.processorTime(agent...), w.processorTime(engine)
	for range restParts {
		begun := time.Now()
		time.Sleep(long / restParts) // nothing is waited for: this is the time measured
		took := time.Since(begun)
		nextA, nextE := w.processorTime(agent...), w.processorTime(engine)
		r.cpu = append(r.cpu, (nextA-a).Seconds()/took.Seconds())
		r.docker = append(r.docker, (nextE-e).Seconds()/took.Seconds())
		a, e = nextA, nextE
	}
	after := w.metrics()
	r.writes = after.writes - before.writes
	if passes := after.passes - before.passes; passes > 0 {
		r.pass = time.Duration(float64(time.Second) * (after.seconds - before.seconds) / passes)
	} else { // they are rare: of those since it was started
		r.pass = time.Duration(float64(time.Second) * after.seconds / after.passes)
	}
	w.Logf("it allocated %.1f MB/s and collected %.0f times in %v; its objects take %.0f MB, in spans of %.0f MB", (after.allocated-before.allocated)/1e6/long.Seconds(),
		after.collections-before.collections, long, after.objects/1e6, after.spans/1e6)
	r.memory = w.memory()
	r.engine = w.status(engine, "VmRSS")
	return r
}

// processorTime is that of some processes together.
func (w *world) processorTime(pids ...int) (sum time.Duration) {
	for _, p := range pids {
		t, err := processorTime(p)
		w.must("read a process's processor time", err)
		sum += t
	}
	return sum
}

// withStore is an agent and the process of its store.
func (w *world) withStore(agent int) []int {
	all := []int{agent}
	files, err := filepath.Glob("/proc/[0-9]*/status")
	w.must("find the process of the agent's store", err)
	for _, file := range files {
		b, _ := os.ReadFile(file) // the process may have ended
		if strings.Contains(string(b), fmt.Sprintf("\nPPid:\t%d\n", agent)) {
			p, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			w.must("read "+file, err)
			all = append(all, p)
		}
	}
	return all
}

// metrics are some of the agent's.
type metrics struct {
	seconds, passes float64 // of full passes of the balancer
	writes          float64 // to the kernel

	allocated, collections, objects, spans float64  // of Go's heap: bytes since the start, collections, bytes of objects, and of the spans that they are in
	facilities                             []string // the lines that tell of writes
}

func (w *world) metrics() metrics {
	m, err := w.tryMetrics()
	w.must("read the agent's metrics", err)
	return m
}

// tryMetrics is an error while the agent is starting.
func (w *world) tryMetrics() (m metrics, err error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", w.host.AgentSocket())
	}}}
	resp, err := c.Get("http://shoal/metrics")
	if err != nil {
		return m, err
	}
	defer resp.Body.Close()
	fields := map[string]*float64{
		`shoal_reconcile_duration_seconds_sum{full="true",part="lb"}`:   &m.seconds,
		`shoal_reconcile_duration_seconds_count{full="true",part="lb"}`: &m.passes,
		"go_memstats_alloc_bytes_total":                                 &m.allocated,
		"go_gc_duration_seconds_count":                                  &m.collections,
		"go_memstats_heap_alloc_bytes":                                  &m.objects,
		"go_memstats_heap_inuse_bytes":                                  &m.spans,
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), " ")
		value, err := strconv.ParseFloat(text, 64)
		if field := fields[name]; field != nil && err == nil {
			*field = value
		}
		if strings.HasPrefix(name, "shoal_kernel_writes_total{") && err == nil {
			m.writes += value
			m.facilities = append(m.facilities, lines.Text())
		}
	}
	if m.passes == 0 {
		return m, errors.Join(lines.Err(), errors.New("they tell of no full pass"))
	}
	return m, lines.Err()
}

// agent compares the agent at rest with one service and with ten thousand.
func (w *world) agent(one, most rest) []Row {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.0f ms", us(d)/1e3) }
	return []Row{
		one.memory.row("1 service", mb(one.engine)+", the Docker engine", one.engine, 80e6),
		most.memory.row(fmt.Sprintf("10,000 services × %d tasks", fakeTasks), mb(one.memory.agent)+" with 1 service", one.memory.agent, 250e6),
		one.processor("agent, 1 service").atMost(restAim, average(one.cpu)),
		most.processor("agent, 10,000 services").atMost(restAimMany, average(most.cpu)),
		{What: fmt.Sprintf("agent, 10,000 services: a full pass over the kernel's tables (%.0f writes)", most.writes),
			Shoal: ms(most.pass), Against: ms(one.pass) + " with 1 service", Ratio: exactly(float64(most.pass) / float64(one.pass))},
	}
}

// How much of a processor an agent may take at rest, with one service and with ten thousand.
const restAim, restAimMany = 0.005, 0.01

// processor tells how much of a processor the agent took. What happens now and then happens
// in few parts of the time, so the figure is the average, not the median.
func (r rest) processor(label string) Row {
	share := func(all []float64) string {
		s := spreadOf(all)
		return fmt.Sprintf("%.2f %% (%.2f–%.2f)", 100*average(all), 100*s.low, 100*s.high)
	}
	return Row{What: label + ": processor at rest, share of one", Shoal: share(r.cpu), Against: share(r.docker) + ", dockerd in the same time",
		Ratio: exactly(average(r.cpu) / average(r.docker))}
}

// atMost sets an aim for a share.
func (r Row) atMost(aim, got float64) Row {
	r.Aim, r.Met = fmt.Sprintf("≤ %.1f %%", 100*aim), got <= aim
	return r
}

func average(all []float64) (sum float64) {
	for _, x := range all {
		sum += x
	}
	return sum / float64(len(all))
}

// reach measures how long a change of one task on another host takes from the store
// to the kernel, with n services.
func (w *world) reach(n int) []Row {
	w.Logf("a task changes, %s", services(n))
	var stored, reached []float64
	change := func(state model.State, want int) {
		start := time.Now()
		_, err := w.etcd.Do(context.Background(), w.putFake(0, 0, state))
		w.must("write a task into the store", err)
		stored = append(stored, us(time.Since(start))/1e3)
		for w.rotation(fakeVIP(0)) != want {
			if time.Since(start) > waitLimit {
				w.Fatalf("after %v the kernel has not what the store says of %s", waitLimit, fakeID(0))
			}
			time.Sleep(500 * time.Microsecond)
		}
		reached = append(reached, us(time.Since(start))/1e3)
		time.Sleep(300 * time.Millisecond) // as changes come that are not part of a burst
	}
	for range w.rounds {
		change(model.Paused, fakeTasks-1)
		change(model.Running, fakeTasks)
	}
	var rows []Row
	for _, p := range []int{50, 99} {
		ours, store := percentile(reached, p), percentile(stored, p)
		r := Row{What: fmt.Sprintf("%s: a task's change on another host, to the kernel, p%d of %d", services(n), p, len(reached)),
			Shoal: fmt.Sprintf("%.1f ms", ours), Against: fmt.Sprintf("%.1f ms to write it into the store", store), Ratio: exactly(ours / store)}
		rows = append(rows, r.within(100*time.Millisecond, time.Duration(ours*1e6)))
	}
	return rows
}

// status is a number of a process's /proc/PID/status in bytes, from a line in
// kB.
func (b *bench) status(pid int, field string) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	b.must("read a process's status", err)
	_, rest, _ := strings.Cut("\n"+string(text), "\n"+field+":")
	var kB int
	_, err = fmt.Sscan(rest, &kB)
	b.must(field+" of a process", err)
	return kB << 10
}

// changeCost measures how much of a processor's time the whole agent takes for a change of one task on another host, from the store's
// word on: what the kernel does of it and what Go's collector takes are in it. What it takes at rest is taken off. What of it the aim
// of 2 ms is for, [shoal/bench/costs] measures: what the catalog and those who take Snapshots do.
func (w *world) changeCost() Row {
	const pause, changes = 40 * time.Millisecond, 500
	w.Logf("the cost of a change, %s × %d tasks", services(w.fakes+1), manyTasks)
	all := w.withStore(w.host.Agent().Pid())
	spent := func() (agent, store time.Duration) {
		agent = w.processorTime(all[0])
		return agent, w.processorTime(all[1:]...)
	}
	n := changes
	if w.quick {
		n /= 10
	}
	took := map[bool][2]time.Duration{}
	for _, change := range []bool{false, true} {
		agent, store := spent()
		tick := time.NewTicker(pause)
		for i := range n {
			if change {
				_, err := w.etcd.Do(context.Background(), w.putFake(i, 0, model.Paused))
				w.must("write a task into the store", err)
			}
			<-tick.C
		}
		tick.Stop()
		nextAgent, nextStore := spent()
		took[change] = [2]time.Duration{nextAgent - agent, nextStore - store}
	}
	each := func(which int) time.Duration { return (took[true][which] - took[false][which]) / time.Duration(n) }
	ours, store := us(each(0))/1e3, us(each(1))/1e3
	return Row{What: fmt.Sprintf("agent, %s × %d tasks: processor time of one task's change, mean of %d", services(w.fakes+1), manyTasks, n),
		Shoal: fmt.Sprintf("%.2f ms", ours), Against: fmt.Sprintf("%.2f ms, its store's", store), Ratio: exactly(ours / store)}
}
