package store

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/catalog"
	"shoal/model"
	"shoal/store/etcd"
)

// TestAStoreIsMadeAnewOfWhatAHostKnew: the only server is lost, or two of three are.
func TestAStoreIsMadeAnewOfWhatAHostKnew(t *testing.T) {
	for name, servers := range map[string]string{"a client": "a", "the last of three servers": "abc"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t)
			a := cl.serving("a")
			b, c := cl.start("b", cl.join("a")), cl.start("c", cl.join("a"))
			for _, h := range []*host{b, c} {
				if strings.Contains(servers, h.o.Node) {
					if _, err := h.Promote(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			web := model.ServiceID{Stack: model.DefaultStack, Name: "web"}
			vip, err := c.ClaimVIP(t.Context(), web, netip.MustParseAddr("10.96.0.77"))
			if err != nil {
				t.Fatal(err)
			}
			if err := c.ClaimPort(t.Context(), model.PortClaim{Protocol: model.TCP, Port: 8080, Service: web}); err != nil {
				t.Fatal(err)
			}
			known := func(h *host) bool {
				s := h.Snapshot()
				if s == nil {
					return false
				}
				svc, _ := s.Service(web)
				return svc != nil && svc.VIP == vip && len(svc.Tasks) == 3 && len(s.Published) == 1 && len(s.Nodes) == 3
			}
			for _, h := range []*host{a, b, c} {
				settled(t, h)
				eventually(t, h.o.Node+" knows all", func() bool { return known(h) })
			}
			revision := c.Status().Revision
			if _, err := BeginRecovery(cl.dirs["b"], "b"); err == nil || !strings.Contains(err.Error(), "in use by another agent") {
				t.Errorf("beside the agent: %v", err)
			}
			lost := []*host{a}
			if servers == "abc" {
				lost = append(lost, c)
			}
			for _, h := range append(lost, b) {
				h.Close()
			}
			if err := os.RemoveAll(cl.dirs["a"]); err != nil {
				t.Fatal(err)
			}

			r, err := BeginRecovery(cl.dirs["b"], "b")
			if err != nil {
				t.Fatal(err)
			}
			var seeded catalog.Seeded
			if err := r.Make(t.Context(), func(ctx context.Context, client *etcd.Client) (err error) {
				seeded, err = catalog.Seed(ctx, client, cl.dirs["b"], "b")
				return err
			}, slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
				t.Fatal(err)
			}
			if len(seeded.Hosts) != 3 || seeded.Services != 1 || seeded.Containers != 3 || seeded.Ports != 1 || seeded.Saved.IsZero() {
				t.Errorf("seeded %+v", seeded)
			}
			if err := r.Finish(); err != nil {
				t.Fatal(err)
			}
			r.Close()
			b = cl.start("b")
			if b.Role() != RoleServer {
				t.Errorf("b is %s", b.Role())
			}
			settled(t, b)
			eventually(t, "b knows all", func() bool { return known(b) })
			if got := b.Status().Revision; got < revision+revisionBump/2 {
				t.Errorf("the new store is at revision %d, the former one was at %d", got, revision)
			}

			// The other host, whatever it was, follows.
			c.Close()
			if err := Follow(cl.dirs["c"], []string{cl.endpoint("b")}); err != nil {
				t.Fatal(err)
			}
			c = cl.start("c")
			if c.Role() != RoleClient {
				t.Errorf("c is %s", c.Role())
			}
			settled(t, c)
			eventually(t, "c knows all", func() bool { return known(c) })
			if got, err := c.ClaimVIP(t.Context(), web, netip.MustParseAddr("10.96.0.78")); err != nil || got != vip {
				t.Errorf("the VIP is %v, was %v; error %v", got, vip, err)
			}
			follows(t, b, c)
			follows(t, c, b)
		})
	}
}

// TestARecoveryThatIsRunAgainKeepsTheFormerData: the first broke off when it had put them aside.
func TestARecoveryThatIsRunAgainKeepsTheFormerData(t *testing.T) {
	dir := t.TempDir()
	holds := func(folder, want string) {
		t.Helper()
		if got, err := os.ReadFile(filepath.Join(folder, "data")); err != nil || string(got) != want {
			t.Errorf("%s holds %q, want %q; error %v", folder, got, want, err)
		}
	}
	put := func(folder, content string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(folder, 0o700), os.WriteFile(filepath.Join(folder, "data"), []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	put(oldDataDir(dir), "of an earlier time")
	put(dataDir(dir), "former")
	for range 2 {
		if err := setAside(dir); err != nil {
			t.Fatal(err)
		}
		holds(oldDataDir(dir), "former")
	}
	put(madeDir(dir), "new")
	if err := (&Recovery{dir: dir}).Finish(); err != nil {
		t.Fatal(err)
	}
	holds(oldDataDir(dir), "former")
	holds(dataDir(dir), "new")
}

func TestAHostWithoutACluster(t *testing.T) {
	dir := shortDir(t)
	if r, err := BeginRecovery(dir, "a"); err == nil || !strings.Contains(err.Error(), "nothing to recover") {
		t.Errorf("%v, %v", r, err)
	}
	open(t, "a", dir) // the folder is free again
}
