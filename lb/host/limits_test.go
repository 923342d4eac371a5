package host

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shoal/kernel/sysctl"
)

func TestLimitsGrowWithProcessorsAndMemory(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, tt := range []struct {
		name   string
		cores  int
		memory uint64
		want   Limits
	}{
		{"a small machine: no more than an eighth of its memory", 1, 256 * mib, Limits{104_857, 26_214, 15}},
		{"kube-proxy's least", 1, 512 * mib, Limits{131_072, 32_768, 16}},
		{"by memory", 2, 4 * gib, Limits{838_860, 209_715, 18}},
		{"by processors", 64, 8 * gib, Limits{2_097_152, 524_288, 20}},
		{"many processors and little memory", 64, 4 * gib, Limits{1_677_721, 419_430, 19}},
		{"a large machine", 128, 512 * gib, Limits{4_194_304, 1_048_576, 20}},
	} {
		if d := cmp.Diff(tt.want, limitsFor(tt.cores, tt.memory)); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}

// TestLimitsAreRaisedNeverLoweredAndPutBack works on files that stand for the kernel's: those of this machine are not
// the test's to change.
func TestLimitsAreRaisedNeverLoweredAndPutBack(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	defer func(kernels *sysctl.Keeper) { params = kernels }(params)
	params = sysctl.In(root)
	if err := os.MkdirAll(filepath.Join(root, "net/netfilter"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(root, "net/netfilter", name) }
	set := func(name string, n int) {
		t.Helper()
		if err := os.WriteFile(file(name), []byte(strconv.Itoa(n)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	is := func(what, name string, want int) {
		t.Helper()
		if got, err := number("net/netfilter/" + name); err != nil || got != want {
			t.Errorf("%s: %s is %d, %v; want %d", what, name, got, err, want)
		}
	}
	raise := func(l Limits, want int) {
		t.Helper()
		if done, err := Raise(dir, l); err != nil || len(done) != want {
			t.Errorf("raised %q, %v; want %d", done, err, want)
		}
	}
	raise(Limits{Entries: 1000, Buckets: 250}, 0) // nothing is tracked
	if n, limit, err := Tracked(); n != 0 || limit != 0 || err != nil {
		t.Errorf("with nothing tracked: %d of %d, %v", n, limit, err)
	}

	set("nf_conntrack_max", 300)
	set("nf_conntrack_buckets", 400)
	set("nf_conntrack_count", 7)
	raise(Limits{Entries: 1000, Buckets: 250}, 1)
	is("raised", "nf_conntrack_max", 1000)
	is("higher already", "nf_conntrack_buckets", 400)
	raise(Limits{Entries: 1000, Buckets: 250}, 0)
	raise(Limits{Entries: 2000, Buckets: 500}, 2)
	if n, limit, err := Tracked(); n != 7 || limit != 2000 || err != nil {
		t.Errorf("tracked: %d of %d, %v", n, limit, err)
	}

	set("nf_conntrack_buckets", 512) // the kernel rounds
	if err := downLimits(dir); err != nil {
		t.Error(err)
	}
	is("put back", "nf_conntrack_max", 300)
	is("put back", "nf_conntrack_buckets", 400)

	raise(Limits{Entries: 1000, Buckets: 250}, 1)
	set("nf_conntrack_max", 5000) // by the machine's owner
	for range 2 {
		if err := downLimits(dir); err != nil {
			t.Error(err)
		}
	}
	is("set by somebody else since", "nf_conntrack_max", 5000)
}
