package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// costBurst is how many requests a processor time is measured over: what a server still does
// after its last answer is not in it.
const costBurst = 25

// costKept tells how much processor time requests on one connection take. The connection is made anew
// each round, which does not count.
func (p path) costKept(server int) side {
	buf := make([]byte, 4096)
	fd, bursts := -1, 0
	p.Cleanup(func() {
		if fd >= 0 {
			unix.Close(fd)
		}
	})
	return func() (times []time.Duration, err error) {
		err = p.do(func() error {
			if bursts++; bursts%roundBursts == 1 {
				if fd >= 0 {
					unix.Close(fd)
				}
				if fd, err = p.dial(requestLimit); err != nil {
					return err
				}
				if err := askKept(fd, buf); err != nil {
					return err
				}
			}
			times, err = costOf(server, func() error { return askKept(fd, buf) })
			return err
		})
		return times, err
	}
}

// costOnce tells it of requests each on a connection of its own.
func (p path) costOnce(server int) side {
	buf := make([]byte, 4096)
	return func() (times []time.Duration, err error) {
		err = p.do(func() error {
			times, err = costOf(server, func() error { return p.askOnce(buf, requestLimit) })
			return err
		})
		return times, err
	}
}

// costOf is the processor time that a request takes of the calling thread and of a
// server's process, on average of a burst. What the kernel does with packets while either
// sends is in it, unless the kernel counts that apart (CONFIG_IRQ_TIME_ACCOUNTING).
func costOf(server int, ask func() error) ([]time.Duration, error) {
	before, err := costSoFar(server)
	if err != nil {
		return nil, err
	}
	for range costBurst {
		if err := ask(); err != nil {
			return nil, err
		}
	}
	after, err := costSoFar(server)
	return []time.Duration{(after - before) / costBurst}, err
}

func costSoFar(server int) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read the processor time of this thread: %w", err)
	}
	of, err := processorTime(server)
	return time.Duration(t.Nano()) + of, err
}

// processIn is the process that runs alone in a container's network namespace, as the bench
// numbers processes.
func (s *site) processIn(container string) int {
	var want unix.Stat_t
	s.must("find the container's namespace", unix.Stat(s.root+s.host.Docker("inspect", "-f", "{{.NetworkSettings.SandboxKey}}", container), &want))
	found := 0
	all, err := filepath.Glob("/proc/[0-9]*/ns/net")
	s.must("find processes", err)
	for _, file := range all {
		var st unix.Stat_t
		if unix.Stat(file, &st) != nil || st.Dev != want.Dev || st.Ino != want.Ino { // the process may have ended
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(file))))
		s.must("read "+file, err)
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && found != 0 {
			s.Fatalf("container %s has several processes, one of them %s", container, comm)
		}
		found = pid
	}
	if found == 0 {
		s.Fatalf("container %s has no process", container)
	}
	return found
}

// costs compares the processor time of a request that is led with that of one that the data plane
// alone carries, and with one straight to the task.
func (s *sockets) costs() []Row {
	row := func(what string, cost func(path, int) side) Row {
		s.Logf("processor time, %s", what)
		t := s.compare(
			s.within(s.group, cost(s.led, s.server)),
			s.within(s.home, cost(s.plain, s.server)),
			s.within(s.home, cost(s.straight, s.server)))
		µs := func(side int) float64 { return us(t.time(side, 50)) }
		return Row{What: "processor time of client and task, led in connect(), " + what,
			Shoal:   fmt.Sprintf("%.1f µs a request (%.2f of straight)", µs(0), t.times(0, 2).median),
			Against: fmt.Sprintf("%.1f µs by the data plane alone (%.2f of straight)", µs(1), t.times(1, 2).median),
			Ratio:   t.times(0, 1)}
	}
	return []Row{
		row("requests on kept connections", path.costKept),
		row("requests each on a new connection", path.costOnce),
	}
}
