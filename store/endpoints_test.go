package store

import (
	"net/netip"
	"strings"
	"testing"
)

func TestChooseEndpoints(t *testing.T) {
	servers := map[string]string{"b": "B", "c": "C"}
	dead := func(names ...string) map[string]bool {
		m := map[string]bool{}
		for _, n := range names {
			m[n] = true
		}
		return m
	}
	for name, tc := range map[string]struct {
		own     string
		servers map[string]string
		dead    map[string]bool
		found   []string
		want    string
	}{
		"alone":                                {own: "A", want: "A"},
		"a client that knows nobody yet":       {want: "R"},
		"a client":                             {servers: servers, want: "B C"},
		"a client, one server is dead":         {servers: servers, dead: dead("b", "x"), want: "C"},
		"a client, all are dead":               {servers: servers, dead: dead("b", "c"), want: "B C"},
		"a server":                             {own: "A", servers: servers, want: "A B C"},
		"a server, one other is dead":          {own: "A", servers: servers, dead: dead("c"), want: "A B"},
		"a server cut off from the others":     {own: "A", servers: servers, dead: dead("b", "c"), want: "A"},
		"a server that is unlisted is no help": {servers: servers, dead: dead("c"), want: "B"},
		"a client that knows nobody finds":     {found: []string{"F", "R"}, want: "F R"},
		"a client whose servers moved":         {servers: servers, dead: dead("b", "c"), found: []string{"F"}, want: "F"},
		"a client, one server moved":           {servers: servers, dead: dead("b"), found: []string{"F"}, want: "F C"},
	} {
		remembered := []string{"R"}
		if tc.own != "" {
			remembered = nil
		}
		if got := strings.Join(choose(tc.own, tc.servers, tc.dead, remembered, tc.found), " "); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestWhetherTheStoreIsAnswerable(t *testing.T) {
	a, b := "https://192.0.2.1:2379", "https://192.0.2.2:2379"
	for _, c := range []struct {
		role    Role
		servers []string
		found   []string
		up      string
		want    bool
	}{
		{RoleAlone, nil, nil, "", true},
		{RoleExternal, nil, nil, "", true},
		{RoleServer, nil, nil, "", true},
		{RoleServer, []string{a}, nil, "192.0.2.1", true},
		{RoleServer, []string{a}, nil, "", false},
		{RoleServer, []string{a, b}, nil, "192.0.2.1", true},
		{RoleServer, []string{a, b}, nil, "", false},
		{RoleClient, []string{a}, nil, "192.0.2.1", true},
		{RoleClient, []string{a}, nil, "", false},
		{RoleClient, []string{a}, []string{b}, "", true},
		{RoleClient, []string{a, b}, nil, "192.0.2.2", false},
		{RoleClient, nil, nil, "", true},
	} {
		s := &Store{place: place{Role: c.role, Servers: c.servers}, found: c.found}
		if got := s.Answerable(func(a netip.Addr) bool { return a.String() == c.up }); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
