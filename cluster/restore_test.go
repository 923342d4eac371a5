package cluster

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

// TestAClusterGoesOnFromABackup, as the same host or as another.
func TestAClusterGoesOnFromABackup(t *testing.T) {
	host := func(node string) Host {
		return Host{Dir: filepath.Join(t.TempDir(), "cluster"), Node: node, Addr: netip.MustParseAddr("127.0.0.1")}
	}
	a, err := Create(host("a"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := a.Secrets()
	if err != nil {
		t.Fatal(err)
	}
	for node, same := range map[string]bool{"a": true, "z": false} {
		h := host(node)
		if err := Restore(h.Dir, files, same); err != nil {
			t.Fatal(err)
		}
		open := Create
		if same {
			open = Load
		}
		id, err := open(h)
		if err != nil {
			t.Fatalf("%s: %v", node, err)
		}
		if id.CAFingerprint() != a.CAFingerprint() || !id.HoldsCA() || string(id.GossipKey()) != string(a.GossipKey()) || (id.Key() == a.Key()) != same || id.Node() != node {
			t.Errorf("%s is of another cluster, or another host", node)
		}
		if err := Restore(h.Dir, files, same); err == nil || !strings.Contains(err.Error(), "move the folder away") {
			t.Errorf("%s, over its own: %v", node, err)
		}
	}

	h := host("y")
	other, err := Create(host("b"))
	if err != nil {
		t.Fatal(err)
	}
	mixed, err := other.Secrets()
	if err != nil {
		t.Fatal(err)
	}
	mixed[caFile] = files[caFile]
	if err := Restore(h.Dir, mixed, false); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(h); err == nil || !strings.Contains(err.Error(), "another CA") {
		t.Errorf("the key of another CA: %v", err)
	}
	delete(files, gossipFile)
	if err := Restore(host("x").Dir, files, true); err == nil {
		t.Error("restored without gossip's key")
	}
	if err := a.DropCA(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Secrets(); err == nil || !strings.Contains(err.Error(), "shoal nodes") {
		t.Errorf("a host without the CA's key: %v", err)
	}
}
