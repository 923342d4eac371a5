package fleet

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// process is what a process has used so far (proc_pid_stat(5)).
type process struct {
	parent int
	cpu    time.Duration
	memory int64 // resident, in bytes
}

// ticks a second of the times in /proc: USER_HZ, which is 100 on all architectures that Go
// runs on.
const userHZ = 100

// parseStat reads a line of /proc/PID/stat. The name, in parentheses, may hold anything.
func parseStat(line []byte) (p process, err error) {
	end := bytes.LastIndexByte(line, ')')
	if end < 0 {
		return p, fmt.Errorf("%q is not of /proc/PID/stat", line)
	}
	f := strings.Fields(string(line[end+1:]))
	if len(f) < 22 {
		return p, fmt.Errorf("%q is not of /proc/PID/stat", line)
	}
	var n [4]int64
	for i, field := range []int{1, 11, 12, 21} { // ppid, utime, stime, rss
		if n[i], err = strconv.ParseInt(f[field], 10, 64); err != nil {
			return p, fmt.Errorf("%q is not of /proc/PID/stat: %w", line, err)
		}
	}
	return process{int(n[0]), time.Duration(n[1]+n[2]) * time.Second / userHZ, n[3] * int64(unix.Getpagesize())}, nil
}

// processes are all that run now, by number.
func processes() map[int]process {
	all := map[int]process{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	for _, f := range files {
		line, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		if p, err := parseStat(line); err == nil {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			all[pid] = p
		}
	}
	return all
}

// lateness measures how busy a machine is: by how much later than asked for a process runs
// that waits for a time. All that is measured is later by as much, several times over.
type lateness struct {
	mu   sync.Mutex
	late times
}

// measure goes on for ever.
func (l *lateness) measure() {
	const tick = 20 * time.Millisecond
	for {
		start := time.Now()
		time.Sleep(tick)
		by := max(time.Since(start)-tick, 0)
		l.mu.Lock()
		l.late = append(l.late, by)
		l.mu.Unlock()
	}
}

// take returns what was measured since it was last called.
func (l *lateness) take() times {
	l.mu.Lock()
	defer l.mu.Unlock()
	late := l.late
	l.late = nil
	return late
}

// usage is what something cost: of each part its processes' time and memory, and what was
// sent.
type usage struct {
	over   time.Duration
	cpu    map[string]time.Duration // by part
	memory map[string]int64         // at the end, by part
	sent   traffic
	store  serverStatus // how much it grew; of Bytes the size at the end
}

// The parts of [usage]. Of the workers for the store, their etcds are apart.
const partStore = "store"

// sub is what was used since before.
func (u usage) sub(before usage) usage {
	d := usage{over: u.over - before.over, cpu: map[string]time.Duration{}, memory: u.memory, sent: traffic{}}
	for part, t := range u.cpu {
		d.cpu[part] = max(t-before.cpu[part], 0)
	}
	for name, c := range u.sent {
		c.Packets -= before.sent[name].Packets
		c.Bytes -= before.sent[name].Bytes
		d.sent[name] = c
	}
	d.store = serverStatus{u.store.Revision - before.store.Revision, u.store.Proposals - before.store.Proposals, u.store.Bytes}
	return d
}

// busy is how much of so many processors was used.
func (u usage) busy(processors int) float64 {
	var sum time.Duration
	for _, t := range u.cpu {
		sum += t
	}
	if u.over <= 0 {
		return 0
	}
	return sum.Seconds() / u.over.Seconds() / float64(processors)
}

// first is the part that used the most.
func (u usage) first() string {
	var parts []string
	for part := range u.cpu {
		parts = append(parts, part)
	}
	slices.Sort(parts)
	most := ""
	for _, part := range parts {
		if most == "" || u.cpu[part] > u.cpu[most] {
			most = part
		}
	}
	return most
}
