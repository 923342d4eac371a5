package host

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"shoal/internal/statefile"
	"shoal/kernel/sysctl"
)

// The kernel tracks each connection that it translates, up to a limit, and drops
// the first packet of one too many. A published port takes two entries a
// connection, and a closed one keeps them for 120 s: the limit of a stock kernel,
// 262,144, is reached by 1,100 connections a second.
//
// An entry takes about 320 octets (sizeof(struct nf_conn) with its extensions),
// and only while it is in use; a bucket of the table takes 8 at once.
const (
	perCore    = 32_768    // entries for each processor, and
	least      = 131_072   // at least so many: what kube-proxy asks for
	most       = 4_194_304 // entries that are asked for at most
	entrySize  = 320       // octets
	memoryPart = 16        // a full table takes one part in 16 of the memory,
	memoryMost = 8         // or one part in 8 where that is less than kube-proxy's figure

	entriesPerBucket = 4 // as kube-proxy has it
)

// Limits are how much the kernel's tables of connections may hold.
type Limits struct {
	Entries int // of connection tracking
	Buckets int // of its hash table
	Bits    int // of IPVS's table of connections: it has 2^Bits buckets
}

// limitsFor is what a host can bear that has so many processors, and so much
// memory in octets.
func limitsFor(cores int, memory uint64) Limits {
	entries := max(least, perCore*cores, int(memory/memoryPart/entrySize))
	entries = min(entries, most, int(memory/memoryMost/entrySize))
	buckets := entries / entriesPerBucket
	// 12 is what the module has when it is told nothing; 20 is the most that it
	// takes on kernels before 6.18.
	return Limits{Entries: entries, Buckets: buckets, Bits: min(max(bits.Len(uint(buckets)), 12), 20)}
}

// HostLimits are those that this host can bear.
func HostLimits() (Limits, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Limits{}, fmt.Errorf("read the size of the memory: %w", err)
	}
	return limitsFor(runtime.NumCPU(), uint64(info.Totalram)*uint64(info.Unit)), nil
}

// params are the kernel's parameters.
var params = sysctl.New("")

// Those of connection tracking. In a network namespace other than the host's they can only be
// read: they are the whole machine's.
const (
	trackMax     = "net.netfilter.nf_conntrack_max"
	trackBuckets = "net.netfilter.nf_conntrack_buckets"
	trackCount   = "net.netfilter.nf_conntrack_count"
)

// raised is a parameter that was raised.
type raised struct {
	Was int `json:"was"`
	Set int `json:"set"`
}

func limitsFile(dir string) string { return filepath.Join(dir, "limits.json") }

// Raise raises the limits of connection tracking to what the host can bear.
// What is higher already stays. [Down] puts back what still is as it was set
// here. It tells what was raised, for the log.
func Raise(dir string, want Limits) (done []string, err error) {
	var errs []error
	for _, p := range []struct {
		name string
		want int
	}{{trackBuckets, want.Buckets}, {trackMax, want.Entries}} {
		have, err := number(p.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing is tracked yet, or this kernel has no such parameter
		}
		if err != nil || have >= p.want {
			errs = append(errs, err)
			continue
		}
		if err := rememberRaised(dir, p.name, have, p.want); err != nil {
			errs = append(errs, err)
			continue
		}
		// The kernel rounds the number of buckets up.
		err = params.Put(p.name, strconv.Itoa(p.want))
		if readOnly(err) {
			continue // a network namespace, or a container: the machine's owner says
		}
		if errs = append(errs, err); err == nil {
			done = append(done, fmt.Sprintf("%s %d -> %d", p.name, have, p.want))
		}
	}
	return done, errors.Join(errs...)
}

func rememberRaised(dir, name string, was, set int) error {
	saved := map[string]raised{}
	if _, err := statefile.Load(limitsFile(dir), &saved); err != nil {
		return fmt.Errorf("original limits: %w", err)
	}
	if old, known := saved[name]; known {
		was = old.Was
	}
	saved[name] = raised{was, set}
	return statefile.Save(limitsFile(dir), saved)
}

// downLimits lowers what was raised, where nobody has set it otherwise since.
func downLimits(dir string) error {
	saved := map[string]raised{}
	if found, err := statefile.Load(limitsFile(dir), &saved); !found || err != nil {
		return err
	}
	var errs []error
	for name, r := range saved {
		have, err := number(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		case r.isOurs(name, have):
			if err := params.Put(name, strconv.Itoa(r.Was)); err != nil && !readOnly(err) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(append(errs, os.Remove(limitsFile(dir)))...)
}

// isOurs tells whether a value is what was set, or what the kernel made of it:
// it rounds buckets up to whole pages.
func (r raised) isOurs(name string, have int) bool {
	return have == r.Set || name == trackBuckets && have > r.Set && have-r.Set <= os.Getpagesize()
}

func readOnly(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)
}

func number(name string) (int, error) {
	s, err := params.Get(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return n, nil
}

// Tracked are the connections that the kernel tracks in this network namespace,
// and how many it tracks at most. Both are 0 where it tracks none.
func Tracked() (entries, limit int, err error) {
	if entries, err = number(trackCount); err == nil {
		limit, err = number(trackMax)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	return entries, limit, err
}

// IPVSBits is the size of IPVS's table of connections that is loaded, as a power
// of two; 0: the module is not loaded, or does not tell.
func IPVSBits() int {
	b, err := os.ReadFile("/sys/module/ip_vs/parameters/conn_tab_bits")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}
