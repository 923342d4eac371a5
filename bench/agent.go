package bench

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"shoal/kernel/ipset"
	"shoal/model"
)

const restFor = 16 * time.Second // some three full passes

// rest is the agent while nothing happens.
type rest struct {
	rss    int           // bytes
	engine int           // bytes, of the Docker engine beside it
	cpu    float64       // part of one processor
	pass   time.Duration // a full pass of the balancer: everything read back and compared
	writes float64       // to the kernel, over all passes
}

// rest looks at the agent while nothing happens.
func (w *world) rest() (r rest) {
	w.Logf("the agent at rest, %d services", w.fakes+1)
	agent := w.host.Agent().Pid()
	before, cpu := w.metrics(), w.processorTime(agent)
	time.Sleep(restFor) // nothing is waited for: this is the time measured
	cpu = w.processorTime(agent) - cpu
	after := w.metrics()

	r.cpu = cpu.Seconds() / restFor.Seconds()
	r.pass = time.Duration(float64(time.Second) * (after.seconds - before.seconds) / (after.passes - before.passes))
	r.writes = after.writes - before.writes
	r.rss = w.status(fmt.Sprintf("/proc/%d", agent), "VmRSS")
	pid, err := os.ReadFile(filepath.Join(w.host.Dir(), "docker.pid"))
	w.must("find the engine", err)
	r.engine = w.status(filepath.Join(w.root, "proc", strings.TrimSpace(string(pid))), "VmRSS")
	return r
}

func (w *world) processorTime(pid int) time.Duration {
	t, err := processorTime(pid)
	w.must("read the agent's processor time", err)
	return t
}

// metrics are some of the agent's.
type metrics struct{ seconds, passes, writes float64 }

func (w *world) metrics() (m metrics) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", w.host.AgentSocket())
	}}}
	resp, err := c.Get("http://shoal/metrics")
	w.must("read the agent's metrics", err)
	defer resp.Body.Close()
	fields := map[string]*float64{
		`shoal_reconcile_seconds_sum{full="yes",part="lb"}`:   &m.seconds,
		`shoal_reconcile_seconds_count{full="yes",part="lb"}`: &m.passes,
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
		}
	}
	w.must("read the agent's metrics", lines.Err())
	if m.passes == 0 {
		w.Fatalf("the agent's metrics tell of no full pass")
	}
	return m
}

// agent compares the agent at rest with one service and with ten thousand.
func (w *world) agent(one, most rest) []Row {
	mb := func(bytes int) string { return fmt.Sprintf("%.0f MB", float64(bytes)/1e6) }
	ms := func(d time.Duration) string { return fmt.Sprintf("%.0f ms", us(d)/1e3) }
	idle := Row{What: "agent, 1 service: memory at rest (RSS, its etcd included)", Shoal: mb(one.rss),
		Against: mb(one.engine) + ", the Docker engine", Ratio: exactly(float64(one.rss) / float64(one.engine)),
		Aim: "≤ 80 MB", Met: one.rss <= 80e6}
	return []Row{
		idle,
		{What: "agent, 10,000 services: memory at rest (RSS)", Shoal: mb(most.rss), Against: mb(one.rss) + " with 1 service",
			Ratio: exactly(float64(most.rss) / float64(one.rss))},
		{What: "agent, 10,000 services: processor at rest", Shoal: fmt.Sprintf("%.1f %%", 100*most.cpu),
			Against: fmt.Sprintf("%.1f %% with 1 service", 100*one.cpu), Ratio: exactly(most.cpu / one.cpu)},
		{What: fmt.Sprintf("agent, 10,000 services: a full pass over the kernel's tables (%.0f writes)", most.writes),
			Shoal: ms(most.pass), Against: ms(one.pass) + " with 1 service", Ratio: exactly(float64(most.pass) / float64(one.pass))},
	}
}

// reach measures how long a change of one task on another host takes from the store
// to the kernel, with n services.
func (w *world) reach(n int) []Row {
	w.Logf("a task changes, %d services", n)
	mark := w.set("SHOAL-VIP")[ipset.Addr(fakeVIP(0))]
	var stored, reached []float64
	change := func(state model.State, want int) {
		start := time.Now()
		_, err := w.etcd.Do(context.Background(), w.putFake(0, state))
		w.must("write a task into the store", err)
		stored = append(stored, us(time.Since(start))/1e3)
		for w.rotation(mark) != want {
			if time.Since(start) > patience {
				w.Fatalf("after %v the kernel has not what the store says of %s", patience, fakeID(0))
			}
			time.Sleep(500 * time.Microsecond)
		}
		reached = append(reached, us(time.Since(start))/1e3)
		time.Sleep(300 * time.Millisecond) // as changes come that are not part of a burst
	}
	for range w.rounds {
		change(model.Paused, 0)
		change(model.Running, 1)
	}
	var rows []Row
	for _, p := range []int{50, 99} {
		ours, store := percentile(reached, p), percentile(stored, p)
		r := Row{What: fmt.Sprintf("%s services: a task's change on another host, to the kernel, p%d of %d", thousands(n), p, len(reached)),
			Shoal: fmt.Sprintf("%.1f ms", ours), Against: fmt.Sprintf("%.1f ms to write it into the store", store), Ratio: exactly(ours / store)}
		rows = append(rows, r.within(100*time.Millisecond, time.Duration(ours*1e6)))
	}
	return rows
}

// status is a number of a process's /proc/PID/status in bytes, from a line in
// kB.
func (b *bench) status(proc, field string) int {
	text, err := os.ReadFile(filepath.Join(proc, "status"))
	b.must("read a process's status", err)
	_, rest, _ := strings.Cut("\n"+string(text), "\n"+field+":")
	var kB int
	_, err = fmt.Sscan(rest, &kB)
	b.must(field+" in "+proc+"/status", err)
	return kB << 10
}
