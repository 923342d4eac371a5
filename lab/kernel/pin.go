package kernel

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pin keeps process pid, and all it starts from now on, on one processor: the idlest of those that no other kernel is kept
// on. It has that processor to itself, among kernels, until the file that is returned is closed; nil: it has none.
//
// User-Mode Linux runs one thing at a time, and every system call inside is two changes between its process and
// another. On one processor such a change is a switch; across two it is a wakeup, and a wait where others want
// the processor as well. Measured on two busy processors: 7 µs a system call instead of 18 to 60, 5 ms a fork and exec
// instead of 10 to 30.
//
// Where it cannot be done, the kernel is slower and no less right; so it is nobody's error.
func pin(pid int) (held *os.File) {
	before := idleTimes()
	time.Sleep(100 * time.Millisecond) // what the kernel's clock resolves is 10 ms
	var allowed unix.CPUSet
	if unix.SchedGetaffinity(pid, &allowed) != nil {
		return nil
	}
	cpu, held := choose(byIdleness(before, idleTimes(), allowed.IsSet), os.TempDir())
	if cpu >= 0 {
		var one unix.CPUSet
		one.Set(cpu)
		_ = unix.SchedSetaffinity(pid, &one)
	}
	return held
}

// byIdleness are the processors that are allowed, those first that were idle longest between two looks.
func byIdleness(before, after map[int]int64, allowed func(cpu int) bool) []int {
	cpus := slices.DeleteFunc(slices.Sorted(maps.Keys(after)), func(cpu int) bool { return !allowed(cpu) })
	slices.SortStableFunc(cpus, func(a, b int) int { return cmp.Compare(after[b]-before[b], after[a]-before[a]) })
	return cpus
}

// choose takes the first of the processors that is free, or the first where none is; -1: there are none. Two kernels
// that start at the same time see the same processor idle: so one that is taken is told by a locked file in dir.
func choose(cpus []int, dir string) (cpu int, held *os.File) {
	for _, cpu := range cpus {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("shoal-lab-cpu%d", cpu)), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return cpu, f
		}
		f.Close()
	}
	if len(cpus) == 0 {
		return -1, nil
	}
	return cpus[0], nil
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
