package agent

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"shoal/catalog"
	"shoal/cluster"
)

// TestHostsOfOneEtcdAreEqual: each comes in by the etcd alone, whoever else is there.
func TestHostsOfOneEtcdAreEqual(t *testing.T) {
	theirs := Config{Node: "etcd", StateDir: stateDir(t)}
	openStore(t, theirs)
	endpoint := "unix://" + filepath.Join(theirs.StateDir, "etcd.sock")
	var first *cluster.Identity
	for i, node := range []string{"a", "b"} {
		c := Config{Node: node, Advertise: netip.AddrFrom4([4]byte{127, 0, 78, byte(i + 1)}), StateDir: stateDir(t), Etcd: []string{endpoint}}
		store := openStore(t, c, func(o *catalog.Options) { o.Etcd = c.Etcd })
		id, err := identifyByStore(t.Context(), c, store.KV(), testLog(t))
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = id
		}
		if !id.HoldsCA() || id.CAFingerprint() != first.CAFingerprint() {
			t.Errorf("%s is not what the first is", node)
		}
		m := newMembership(c, id, store, testLog(t))
		if members, err := m.reg.Members(t.Context()); err != nil || len(members) != i+1 {
			t.Errorf("the members are %v, %v", members, err)
		}
		if _, err := m.createToken(t.Context(), time.Hour, 1); err == nil || !strings.Contains(err.Error(), "--etcd") {
			t.Errorf("a token was asked for: %v", err)
		}
		again, err := identifyByStore(t.Context(), c, nil, testLog(t)) // another start needs no etcd
		if err != nil || again.Key() != id.Key() {
			t.Errorf("%s starts again as another: %v", node, err)
		}
	}
}
