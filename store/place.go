package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"shoal/internal/statefile"
)

// Role is what a host has to do with etcd.
type Role string

// The roles of a host. One that joins is a client; [Store.Serve],
// [Store.Promote] and [Store.Demote] lead from one to another.
const (
	RoleAlone    Role = "alone"    // its own etcd, on a unix socket only
	RoleServer   Role = "server"   // a member of the cluster's etcd, open to other hosts
	RoleClient   Role = "client"   // uses the etcds of servers
	RoleExternal Role = "external" // uses an etcd that the user runs
)

// place is where this host finds etcd, as remembered on disk.
type place struct {
	Role    Role       `json:"role"`
	Addr    netip.Addr `json:"addr,omitzero"`     // a server's, as its peers know it
	Servers []string   `json:"servers,omitempty"` // endpoints of the other hosts' etcds, as last known
	// Promoting says that its etcd is one of the members, and did not have its vote
	// when that was last looked at.
	Promoting bool `json:"promoting,omitzero"`
}

func placePath(dir string) string { return filepath.Join(dir, "store.json") }

// readPlace reads the host's place. Its role is empty before the first run.
func readPlace(dir string) (p place, err error) {
	b, err := os.ReadFile(placePath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err == nil && !slices.Contains([]Role{RoleAlone, RoleServer, RoleClient}, p.Role) {
		err = fmt.Errorf("role %q is unknown", p.Role)
	}
	if err != nil {
		return p, fmt.Errorf("read %s, where this host's etcd is: %w; if the file is damaged, write {\"role\":\"server\"} "+
			"into it on a host that serves the store, and on another remove it and join again", placePath(dir), err)
	}
	return p, nil
}

func (p place) write(dir string) error { return statefile.Write(placePath(dir), []byte(encode(p))) }

// HasPlace tells whether a host whose state is in that folder has taken a place
// among others: as a client, or as a server. One that is alone has not, nor has
// one whose joining broke off.
func HasPlace(dir string) (bool, error) {
	p, err := readPlace(dir)
	return p.Role != "" && p.Role != RoleAlone, err
}
