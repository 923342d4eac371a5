package host

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"shoal/lb"
	"shoal/model"
)

func TestBridgesAreThoseWithTasksOfThisHost(t *testing.T) {
	networks := []model.Network{
		{Name: "mesh", Bridge: "shoal0", Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}},
		{Name: "bridge", Bridge: "docker0", Subnets: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16"), netip.MustParsePrefix("fd00::/64")}},
	}
	for name, tc := range map[string]struct {
		addr string
		lb.Endpoint
		want []string
	}{
		"a task on the mesh's network":  {"10.244.1.2", lb.Endpoint{Local: true}, []string{"shoal0"}},
		"a task on the engine's bridge": {"172.17.0.2", lb.Endpoint{Local: true}, []string{"docker0"}},
		"another host's task":           {"10.244.1.2", lb.Endpoint{}, nil},
		"a task on no network we know":  {"192.168.9.9", lb.Endpoint{Local: true}, nil},
		"a task that is the host":       {"10.244.1.1", lb.Endpoint{Local: true, Host: true}, nil},
	} {
		got := taskBridges(networks, map[netip.Addr]lb.Endpoint{netip.MustParseAddr(tc.addr): tc.Endpoint})
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: bridges %v, want %v", name, got, tc.want)
		}
	}
}

func TestWhatIsKeptIsPutBackOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bridges.json")
	always := func(string) bool { return true }
	for _, name := range []string{"b", "a", "a"} {
		if err := keep(file, []string{name}, always); err != nil {
			t.Fatal(err)
		}
	}
	if err := keep(file, []string{"c"}, func(name string) bool { return name != "b" }); err != nil {
		t.Fatal(err)
	}
	var put []string
	for range 2 {
		if err := putBack(file, func(name string) error { put = append(put, name); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"a", "c"}; !slices.Equal(put, want) {
		t.Errorf("put back: %v, want %v", put, want)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file is left with nothing to put back")
	}
}
