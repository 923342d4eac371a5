package bench

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// bench is one run. It is the lab's T.
type bench struct {
	progress io.Writer
	started  time.Time
	cleanups []func()
	failed   bool
	rows     []Row
	home     string // the control group it was started in; "": it has never left that
	group    string // the one it is in; "": home

	quick  bool
	long   time.Duration // of each comparison
	rounds int           // of what happens again and again
}

// Options are about a run.
type Options struct {
	Part  string // "plane", "host", "rest", "cluster", "socket" or "swarm", "" for all
	Quick bool   // a few rounds only: to see that it works
}

func (b *bench) Helper()          {}
func (b *bench) Name() string     { return "bench" }
func (b *bench) Failed() bool     { return b.failed }
func (b *bench) Cleanup(f func()) { b.cleanups = append(b.cleanups, f) }

// Logf tells how far the run is.
func (b *bench) Logf(format string, args ...any) {
	fmt.Fprintf(b.progress, "[%3.0f s] %s\n", time.Since(b.started).Seconds(), fmt.Sprintf(format, args...))
}

// stopped is what Fatalf panics with; Run ends with it.
type stopped struct{}

// Fatalf ends the run: a figure that could not be taken is no figure.
func (b *bench) Fatalf(format string, args ...any) {
	b.failed = true
	b.Logf("failed: "+format, args...)
	panic(stopped{})
}

// must is Fatalf where there is an error.
func (b *bench) must(what string, err error) {
	if err != nil {
		b.Fatalf("%s: %v", what, err)
	}
}

// add keeps the rows of a subject, and tells them.
func (b *bench) add(rows []Row) {
	for _, r := range rows {
		b.Logf("%s", r)
	}
	b.rows = append(b.rows, rows...)
}

// section is a part of a run.
type section struct {
	name    string
	measure func(*bench)
}

// parts are what a run measures, in this order.
var parts = []section{
	{"plane", (*bench).dataPlane},
	{"host", (*bench).oneHost},
	{"rest", (*bench).restingHost},
	{"cluster", (*bench).manyHosts},
	{"socket", (*bench).sockets},
	{"swarm", (*bench).swarms},
}

// Run measures what the options say, writes the table to table and how far it is to
// progress. It returns the exit status: 0 if every figure was taken, whether or not it meets
// its aim; 2 if the options are wrong.
func Run(o Options, table, progress io.Writer) (status int) {
	b := &bench{progress: progress, started: time.Now(), long: 3 * time.Second, rounds: 20}
	if o.Quick {
		b.quick, b.long, b.rounds = true, 500*time.Millisecond, 3
	}
	if o.Part != "" && !slices.ContainsFunc(parts, func(p section) bool { return p.name == o.Part }) {
		fmt.Fprintf(progress, "bench: there is no part %q\n", o.Part)
		return 2
	}
	for _, p := range parts {
		if o.Part == "" || o.Part == p.name {
			b.run(p.measure)
		}
	}
	fmt.Fprintf(table, "%s\n%s", b.header(), markdown(b.rows))
	if b.failed {
		return 1
	}
	return 0
}

// run measures a part, and cleans up after it. The rows of one that fails are kept.
func (b *bench) run(measure func(*bench)) {
	defer func() {
		p := recover()
		if _, mine := p.(stopped); p != nil && !mine {
			panic(p)
		}
		for i := len(b.cleanups) - 1; i >= 0; i-- {
			b.cleanups[i]()
		}
		b.cleanups = nil
	}()
	measure(b)
}

// header says what the figures were taken on, and how.
func (b *bench) header() string {
	release := "of unknown release"
	if u := (unix.Utsname{}); unix.Uname(&u) == nil {
		release = unix.ByteSliceToString(u.Release[:])
	}
	kind := "this machine's own kernel"
	if os.Getenv("LAB_KERNEL") == "uml" {
		kind = "User-Mode Linux"
	}
	return fmt.Sprintf(`Data plane %s. Linux %s (%s), %s, processors: %d. The run took %.0f minutes.

A ratio is shoal's figure over the other, the median of all rounds, with their quartiles in brackets.
`, thePlane().name, release, kind, runtime.GOARCH, runtime.NumCPU(), time.Since(b.started).Minutes())
}
