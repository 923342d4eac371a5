package kernel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAJobSeesOnlyWhatItIsMeantToOfTheEnvironment(t *testing.T) {
	got := Environ([]string{
		"PATH=/bin", "HOME=/root", "GOFLAGS=-mod=mod", "SHOAL_NODE=a", "LAB_X=1", "LAB_JOB=/tmp/outer", "TERM=xterm",
		"DOCKER_HOST=tcp://elsewhere", "HTTP_PROXY=http://proxy", "LABEL=x", "PATHS=/x",
	})
	want := []string{"PATH=/bin", "HOME=/root", "GOFLAGS=-mod=mod", "SHOAL_NODE=a", "LAB_X=1", "TERM=xterm"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestSizesAreInUMLsNotation(t *testing.T) {
	for mem, want := range map[string]uint64{
		"4G": 4 << 30, "512M": 512 << 20, "512m": 512 << 20, "64K": 64 << 10, "": 0, "4": 0, "4T": 0, "G": 0,
	} {
		if got := sizeOf(mem); got != want {
			t.Errorf("sizeOf(%q) = %d, want %d", mem, got, want)
		}
	}
}

func TestIdleTimesAreReadPerProcessor(t *testing.T) {
	got := parseIdle("cpu  10 0 10 300 5 0 0 0 0 0\ncpu0 5 0 5 100 2 0 0 0 0 0\ncpu11 5 0 5 200 3 0 0 0 0 0\nintr 5 1 2 3\ncpu2\n")
	if diff := cmp.Diff(map[int]int64{0: 100, 11: 200}, got); diff != "" {
		t.Errorf("idle (-want +got):\n%s", diff)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	kept := &tail{max: 5}
	for _, s := range []string{"ab", "cdef", "", "ghijklmnop", "q"} {
		if n, err := kept.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatalf("Write(%q) = %d, %v", s, n, err)
		}
	}
	if kept.String() != "mnopq" {
		t.Errorf("kept %q, want mnopq", kept)
	}
}

func TestAnOrderIsReadAsItWasWritten(t *testing.T) {
	dir := t.TempDir()
	o := &order{Job: Job{Args: []string{"a b", "ü"}, Dir: "/x", Env: []string{"A=b=c"}, Terminal: true}, UML: true, Self: "/bin/lab", Rows: 24, Cols: 80}
	if err := o.write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := readOrder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(o, got, cmp.AllowUnexported(order{})); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if _, err := readOrder(t.TempDir()); err == nil {
		t.Error("no order, and no error")
	}
}

func TestStatusIsReadAsInitWritesIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), statusFile)
	for text, want := range map[string]int{"0\n": 0, "137\n": 137} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readStatus(path); got != want || err != nil {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
	// The file exists from the start: empty, it says that the kernel ended too soon.
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readStatus(path); err == nil {
		t.Error("an empty file is taken for a status")
	}
}

func TestKeptFoldersAreThoseInside(t *testing.T) {
	got := insideOf("/tmp", []string{"/tmp/a/b", "/tmp/a/c", "/tmp/d", "/tmp", "/tmpfoo/x", "/var/tmp/x", "/"})
	slices.Sort(got)
	if diff := cmp.Diff([]string{"a", "d"}, got); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}

func TestEachKernelHasAProcessorToItself(t *testing.T) {
	dir := t.TempDir()
	idlest := byIdleness(map[int]int64{0: 10, 1: 10, 2: 10, 3: 10}, map[int]int64{0: 10, 1: 90, 2: 50, 3: 99}, func(cpu int) bool { return cpu != 3 })
	if want := []int{1, 2, 0}; !slices.Equal(idlest, want) {
		t.Fatalf("the idlest first: %v, want %v", idlest, want)
	}
	take := func(want int, free bool) (held *os.File) {
		t.Helper()
		cpu, held := choose(idlest, dir)
		if cpu != want || (held != nil) != free {
			t.Fatalf("processor %d, held by %v; want %d", cpu, held, want)
		}
		return held
	}
	first, second, third := take(1, true), take(2, true), take(0, true)
	take(1, false) // all are taken: the idlest, shared
	second.Close()
	take(2, true).Close()
	first.Close()
	third.Close()
	if cpu, held := choose(nil, dir); cpu != -1 || held != nil {
		t.Fatalf("of no processors: %d", cpu)
	}
}

func TestWhatKernelsLackIsListedByFacility(t *testing.T) {
	got := lackingReport("sctp TestB\nipip TestA/ipip\nsctp TestA\nsctp TestB\n\nodd\n")
	want := "lab: this kernel has no ipip, which was left out of: TestA/ipip\nlab: this kernel has no sctp, which was left out of: TestB, TestA\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if got := lackingReport(""); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}

func TestADataPlaneThatThereIsNotIsRefused(t *testing.T) {
	if _, _, err := choosePlane("iptables"); err == nil || !strings.Contains(err.Error(), "auto, ipvs or nftables") {
		t.Errorf("iptables: %v", err)
	}
}
