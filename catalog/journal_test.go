package catalog

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"shoal/model"
)

// TestTheCacheIsAlwaysWhatTheRecordsAre, after any changes, each written by itself or several at once, with the file written
// anew now and then, and with its last line torn.
func TestTheCacheIsAlwaysWhatTheRecordsAre(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 10))
	c := &Catalog{o: Options{Self: model.Node{Name: "a"}, StateDir: t.TempDir()}, records: newRecords("a")}
	file := &cacheFile{path: c.cachePath(), node: "a"}
	defer file.close()
	r := c.records
	check := func(round int) {
		t.Helper()
		got, err := readCache(c.cachePath(), "a")
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		want := &cache{nodes: map[string]model.Node{}, containers: map[model.ContainerKey]model.Container{}, services: r.services,
			published: map[port]model.PortClaim{}, networks: r.networks}
		for _, n := range r.nodes {
			n.Alive = true
			want.nodes[n.Name] = n
		}
		for node, byID := range r.containers {
			for id, ctr := range byID {
				want.containers[model.ContainerKey{Node: node, ID: id}] = *ctr
			}
		}
		for _, p := range r.claims() {
			want.published[port{p.Protocol, p.Port}] = p
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(cache{}, model.ContainerKey{}, port{}), cmpopts.IgnoreUnexported(ServiceRecord{}),
			cmpopts.IgnoreFields(cache{}, "header"), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
			t.Fatalf("round %d: records (-), cache (+):\n%s", round, d)
		}
	}
	anew := 0
	for round := range 300 {
		for range rnd.IntN(6) {
			name, id := string(rune('a'+rnd.IntN(3))), fmt.Sprint(rnd.IntN(10))
			service := model.ServiceID{Stack: "s", Name: "web" + id}
			claim := port{model.TCP, uint16(8000 + rnd.IntN(4))}
			switch rnd.IntN(10) {
			case 0:
				r.putNode(model.Node{Name: name, Number: uint16(rnd.IntN(5)), Alive: true})
			case 1:
				r.deleteNode(name)
			case 2:
				r.deleteContainer(name, id)
			case 3:
				r.putService(service, ServiceRecord{VIP: netip.AddrFrom4([4]byte{10, 96, 0, byte(rnd.IntN(200))})})
			case 4:
				r.deleteService(service)
			case 5:
				r.putPublished(model.PortClaim{Protocol: claim.protocol, Port: claim.number, Service: service})
			case 6:
				r.deletePublished(claim)
			case 7:
				r.setNetworks([]model.Network{{Name: fmt.Sprint(rnd.IntN(3))}}[:rnd.IntN(2)])
			default:
				r.putContainer(ctr(name, id, fmt.Sprintf("10.0.0.%d", rnd.IntN(250)), "s/web"+id))
			}
		}
		if round%50 == 49 {
			file.whole = -leastAdded // it is time
		}
		before := file.f
		if err := c.writeCache(file); err != nil {
			t.Fatal(err)
		}
		if file.f != before {
			anew++
		}
		check(round)
	}
	if anew < 6 || anew > 10 {
		t.Errorf("the file was written anew %d times", anew)
	}

	// A crash in the middle of a line.
	b, err := os.ReadFile(c.cachePath())
	if err == nil {
		err = os.WriteFile(c.cachePath(), append(b, []byte(`{"container":{"id":"torn","no`)...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	check(-1)

	// A write that fails leaves nothing behind that the next one would be added to.
	file.close()
	if file.f, err = os.Open(c.cachePath()); err != nil { // for reading only
		t.Fatal(err)
	}
	r.putNode(model.Node{Name: "z", Alive: true})
	if err := c.writeCache(file); err == nil {
		t.Error("a write that cannot be made is no error")
	}
	if err := c.writeCache(file); err != nil {
		t.Fatal(err)
	}
	check(-2)
	if b, err := os.ReadFile(c.cachePath()); err != nil || bytes.Contains(b, []byte("torn")) {
		t.Errorf("the torn line is still there; error %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.o.StateDir, "cache.jsonl.new")); err == nil {
		t.Error("the new file is there beside")
	}
}
