package kernel

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pin keeps process pid, and all it starts from now on, on one processor, the idlest.
//
// User-Mode Linux runs one thing at a time, and every system call inside is two changes between its process and
// another. On one processor such a change is a switch; across two it is a wakeup, and a wait where others want
// the processor as well. Measured on two busy processors: 7 µs a system call instead of 18 to 60, 5 ms a fork and exec
// instead of 10 to 30.
//
// Where it cannot be done, the kernel is slower and no less right; so it is nobody's error.
func pin(pid int) {
	before := idleTimes()
	time.Sleep(100 * time.Millisecond) // what the kernel's clock resolves is 10 ms
	after := idleTimes()
	var allowed unix.CPUSet
	if unix.SchedGetaffinity(pid, &allowed) != nil {
		return
	}
	best, most := -1, int64(-1)
	for cpu, idle := range after {
		if idle -= before[cpu]; allowed.IsSet(cpu) && idle > most {
			best, most = cpu, idle
		}
	}
	if best < 0 {
		return
	}
	var one unix.CPUSet
	one.Set(best)
	_ = unix.SchedSetaffinity(pid, &one)
}

// idleTimes is how long each processor has been idle since it started, in clock ticks.
func idleTimes() map[int]int64 {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil
	}
	return parseIdle(string(b))
}

// parseIdle reads the lines "cpuN user nice system idle ..." of /proc/stat; see proc_stat(5).
func parseIdle(stat string) map[int]int64 {
	idle := map[int]int64{}
	for line := range strings.Lines(stat) {
		f := strings.Fields(line)
		if len(f) < 5 || !strings.HasPrefix(f[0], "cpu") {
			continue
		}
		cpu, err := strconv.Atoi(f[0][3:])
		if err != nil {
			continue // the sum of all
		}
		if ticks, err := strconv.ParseInt(f[4], 10, 64); err == nil {
			idle[cpu] = ticks
		}
	}
	return idle
}
