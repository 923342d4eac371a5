package diagnose

import (
	"net/netip"
	"slices"
	"testing"
)

func TestAResolverIsReadAsTheCLibraryReadsIt(t *testing.T) {
	r := parseResolver("# Generated\nnameserver 10.96.0.10\nnameserver fe80::1\nnameserver 10.96.0.11\nnameserver 1.1.1.1\n" +
		"domain example.org\nsearch mesh.internal. corp\noptions timeout:1 ndots:2 edns0\nnameserver\n")
	if want := []netip.Addr{addr("10.96.0.10"), addr("fe80::1"), addr("10.96.0.11")}; !slices.Equal(r.servers, want) {
		t.Errorf("the servers are %v, want %v", r.servers, want)
	}
	if !slices.Equal(r.search, []string{"mesh.internal", "corp"}) || r.ndots != 2 {
		t.Errorf("%+v", r)
	}
	for name, want := range map[string][]string{
		"web":       {"web.mesh.internal.", "web.corp.", "web."},
		"web.shop":  {"web.shop.mesh.internal.", "web.shop.corp.", "web.shop."},
		"a.b.c":     {"a.b.c.", "a.b.c.mesh.internal.", "a.b.c.corp."},
		"web.shop.": {"web.shop."},
	} {
		if got := r.candidates(name); !slices.Equal(got, want) {
			t.Errorf("%s is asked for as %v, want %v", name, got, want)
		}
	}
	if r := parseResolver(""); r.ndots != 1 || len(r.servers) > 0 {
		t.Errorf("an empty one: %+v", r)
	}
}

func TestNamesInTheHostsFile(t *testing.T) {
	const hosts = "127.0.0.1 localhost\n::1 web\n172.17.0.5\tWeb web.local # api\n10.0.0.1 api\n"
	for name, want := range map[string][]netip.Addr{"web": {addr("172.17.0.5")}, "web.": {addr("172.17.0.5")}, "api": {addr("10.0.0.1")}, "db": nil} {
		if got := parseHosts(hosts, name); !slices.Equal(got, want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}
