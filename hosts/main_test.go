//go:build hosts

package hosts

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/lab"
	"shoal/lab/vm"
)

var (
	suiteNames = flag.String("suites", "trixie,forky", "suites of Debian to make hosts of")
	stepNames  = flag.String("steps", "", "steps to go through after the first walk, such as engine,reboot; none: all")
	quick      = flag.Bool("quick", false, "one suite, one host, the walk and the table: no disturbances")
	number     = flag.Int("hosts", 2, "how many hosts a cluster has, 1 or 2")
	cpus       = flag.Int("cpus", 2, "processors of each host")
	bin        = flag.String("bin", "../bin", "folder of whoami, and of packages/, in which one .deb is")
	cache      = flag.String("cache", "../bin/images", "folder in which images are kept")
	logs       = flag.String("logs", "../bin/hosts", "folder for the machines' disks and the logs of their consoles")
	mirror     = flag.String("mirror", "", "URL of the Debian archive; none: the one that this machine's apt uses")
	accel      = flag.String("accel", "tcg", "QEMU's accelerator: tcg, which needs nothing, or kvm")
	page       = flag.String("page", "../docs/tested-hosts.md", "where to write the page, with what was found of each suite's steps when they were tried last; quick runs, and those of one host, have theirs in the folder of logs")
	version    = flag.String("shoal-version", "unknown", "for the page")
)

var started = time.Now()

// say tells how far the run is.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%3d:%02d  %s\n", int(time.Since(started).Minutes()), int(time.Since(started).Seconds())%60, fmt.Sprintf(format, args...))
}

// TestHosts goes through all steps on the hosts of each suite, and writes the report.
func TestHosts(t *testing.T) {
	suites := list(*suiteNames)
	if *quick {
		suites, *number = suites[:1], 1
	}
	if *number < 1 || *number > 2 {
		t.Fatalf("-hosts %d: use 1 or 2", *number)
	}
	wanted, err := pick(list(*stepNames))
	if err != nil {
		t.Fatal(err)
	}
	reserve(t)
	image, err := lab.ImageLayer(filepath.Join(*bin, "whoami"))
	if err != nil {
		t.Fatal(err)
	}
	if *mirror == "" {
		if *mirror, err = vm.Mirror(); err != nil {
			t.Fatal(err)
		}
	}
	report := &Report{}
	for _, name := range suites {
		t.Run(name, func(t *testing.T) {
			s := &suite{t: t, image: image, save: func() { write(t, filepath.Join(*logs, "tested-hosts.md"), report) }, report: &SuiteReport{Suite: name, Version: *version, Date: started}}
			report.Suites = append(report.Suites, s.report)
			began := time.Now()
			defer func() { s.report.Took = time.Since(began) }()
			s.start()
			s.goThrough(wanted)
		})
	}
	to := filepath.Join(*logs, "tested-hosts.md")
	written := report
	if !*quick && *number == 2 {
		to = *page
		written = remember(t, report)
	}
	write(t, to, written)
	fmt.Fprintf(os.Stderr, "\n%s\nthe page is %s\n", report.Summary(), to)
}

// write writes the page.
func write(t *testing.T, to string, report *Report) {
	if err := os.WriteFile(to, []byte(report.Markdown()), 0o644); err != nil {
		t.Error(err)
	}
}

// remember keeps what came of these suites, and returns that with what came of other steps, and other suites, when they
// were tried last.
func remember(t *testing.T, report *Report) *Report {
	all := &Report{}
	for _, s := range report.Suites {
		if before := new(SuiteReport); *stepNames != "" {
			if b, err := os.ReadFile(filepath.Join(*logs, s.Suite+".json")); err == nil && json.Unmarshal(b, before) == nil {
				before.merge(s)
				s = before
			}
		}
		b, err := json.Marshal(s)
		if err == nil {
			err = os.WriteFile(filepath.Join(*logs, s.Suite+".json"), b, 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}
	for _, name := range list(flag.Lookup("suites").DefValue) {
		b, err := os.ReadFile(filepath.Join(*logs, name+".json"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		s := &SuiteReport{}
		if err == nil {
			err = json.Unmarshal(b, s)
		}
		if err != nil {
			t.Error(err)
			continue
		}
		all.Suites = append(all.Suites, s)
	}
	return all
}

// reserve takes the folder of logs, and of the machines' disks, until the test ends.
func reserve(t *testing.T) {
	if err := os.MkdirAll(*logs, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(*logs, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatalf("another run uses %s: wait for it, or name another folder by -logs: %v", *logs, err)
	}
}

// list is of a flag of words.
func list(words string) []string {
	return strings.FieldsFunc(words, func(r rune) bool { return r == ',' || r == ' ' })
}

// pick finds the disturbances of those names, in their own order; without names all, and of a quick run none.
func pick(names []string) ([]disturbance, error) {
	if *quick {
		return nil, nil
	}
	var picked []disturbance
	var known []string
	for _, d := range disturbances {
		known = append(known, d.name)
		if len(names) == 0 || slices.Contains(names, d.name) {
			picked = append(picked, d)
		}
	}
	for _, name := range names {
		if name != "walk" && !slices.Contains(known, name) {
			return nil, fmt.Errorf("there is no step %q; there are walk, %s", name, strings.Join(known, ", "))
		}
	}
	return picked, nil
}
