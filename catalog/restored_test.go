package catalog

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"shoal/model"
)

// A backup is restored that is older than a service, and than the death of a task whose
// address the service's task has now.
func TestNothingIsLostToABackupThatDoesNotKnowIt(t *testing.T) {
	t.Parallel()
	dir, backup := shortDir(t), shortDir(t)
	server := etcdServer(t, dir)
	a := open(t, "a", shortDir(t), at(t, server.endpoint))
	b := open(t, "b", shortDir(t), at(t, server.endpoint))
	a.SetLocal(local())
	b.SetLocal(local(ctr("b", "1", "10.0.1.1", "web")))
	settled(t, a)
	settled(t, b)
	eventually(t, "b's task", func() bool { return tasks(a, "web") == "b/1" })
	server.close()
	if err := os.CopyFS(filepath.Join(backup, "etcd"), os.DirFS(filepath.Join(dir, "etcd"))); err != nil {
		t.Fatal(err)
	}
	server = etcdServer(t, dir)

	c := open(t, "c", shortDir(t), at(t, server.endpoint)) // which the backup does not know
	c.SetLocal(local(ctr("c", "1", "10.0.2.1", "far")))
	b.SetLocal(local(ctr("b", "2", "10.0.1.1", "late")))
	vips := map[string]netip.Addr{"late": netip.MustParseAddr("10.96.0.7"), "far": netip.MustParseAddr("10.96.0.8")}
	port := model.PortClaim{Protocol: model.TCP, Port: 8080, Service: model.ServiceID{Stack: model.DefaultStack, Name: "late"}}
	for name, vip := range vips {
		if _, err := b.ClaimVIP(t.Context(), model.ServiceID{Stack: model.DefaultStack, Name: name}, vip); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.ClaimPort(t.Context(), port); err != nil {
		t.Fatal(err)
	}
	is := func(s *model.Snapshot) error {
		for name, vip := range vips {
			svc, ok := s.Service(model.ServiceID{Stack: model.DefaultStack, Name: name})
			if !ok || svc.VIP != vip || len(svc.Tasks) != 1 {
				return fmt.Errorf("service %s is %+v", name, svc)
			}
		}
		if svc, ok := s.Service(model.ServiceID{Stack: model.DefaultStack, Name: "web"}); ok && len(svc.Tasks) > 0 {
			return fmt.Errorf("the dead task is back: %+v", svc.Tasks)
		}
		if len(s.Published) != 1 || s.Published[0] != port || len(s.Nodes) < 3 {
			return fmt.Errorf("published is %v, hosts are %v", s.Published, s.Nodes)
		}
		return nil
	}
	eventually(t, "the new services", func() bool { return is(a.Snapshot()) == nil })
	for i := range 20 { // so that the backup is at an earlier revision
		if _, err := b.client.Put(t.Context(), kvRoot+"x", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	settled(t, a)

	wrong := make(chan error, 100)
	snapshots := a.Watch(t.Context())
	go func() {
		for s := range snapshots {
			if err := is(s); err != nil {
				select {
				case wrong <- err:
				default:
				}
			}
		}
	}()
	again := shortDir(t)
	d := open(t, "d", again, at(t, server.endpoint)) // whose agent is not there while etcd is put back
	d.SetLocal(local())
	eventually(t, "d knows of it", func() bool { s := d.Snapshot(); return s != nil && is(s) == nil })
	settled(t, d)
	d.Close()
	server.close()
	d = open(t, "d", again, at(t, server.endpoint)) // it has one more start meanwhile, without etcd
	d.SetLocal(local())
	eventually(t, "d goes by what it knew", func() bool { s := d.Snapshot(); return s != nil && is(s) == nil })
	d.Close()
	if err := os.RemoveAll(filepath.Join(dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(backup, "etcd"), filepath.Join(dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	etcdServer(t, dir)
	e := open(t, "e", shortDir(t), at(t, server.endpoint), func(o *Options) { o.Settle = 3 * time.Second }) // whose disk was lost
	e.SetLocal(local())
	d = open(t, "d", again, at(t, server.endpoint))
	d.SetLocal(local())
	if s := <-d.Watch(t.Context()); is(s) != nil {
		t.Errorf("d begins with %v", is(s))
	}
	if s := <-e.Watch(t.Context()); is(s) != nil {
		t.Errorf("e begins with %v", is(s))
	}
	cl := client(t, server.endpoint)
	eventuallyWithin(t, 30*time.Second, "etcd has it again", func() bool {
		for _, key := range []string{serviceKey(port.Service), publishKey(toPort(port)), taskKey("b", "2"), taskKey("c", "1"), nodeKey("c"), vipKey(vips["far"])} {
			if r, err := cl.Get(t.Context(), key); err != nil || len(r.Kvs) == 0 {
				return false
			}
		}
		return true
	})
	eventuallyWithin(t, 30*time.Second, "the records are etcd's alone", func() bool {
		for _, h := range []*Catalog{b, c} {
			fetch(t, a, h)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.lacking) == 0 && len(a.hostLists) == 0
	})
	settled(t, a)
	select {
	case err := <-wrong:
		t.Errorf("meanwhile %v", err)
	default:
	}
	if err := is(a.Snapshot()); err != nil {
		t.Error(err)
	}
}

func toPort(c model.PortClaim) port { return port{c.Protocol, c.Port} }
