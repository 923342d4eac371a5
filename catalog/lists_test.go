package catalog

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"shoal/model"
)

// fetch has one host take another's list, if it is outdated, as their agents do.
func fetch(t *testing.T, to, from *Catalog) {
	t.Helper()
	if !to.Outdated(from.o.Self.Name, from.Edition()) {
		return
	}
	l, err := from.List()
	if err == nil {
		err = to.SetList(l)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// seen notes what the tasks of a service ever were.
func seen(ctx context.Context, t *testing.T, c *Catalog, service string) func() string {
	var mu sync.Mutex
	var all []string
	snapshots := c.Watch(ctx)
	go func() {
		for range snapshots {
			mu.Lock()
			if now := tasks(c, service); len(all) == 0 || all[len(all)-1] != now {
				all = append(all, now)
			}
			mu.Unlock()
		}
	}()
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(all, ", then ")
	}
}

func TestAHostsOwnListIsUsedUntilEtcdIsAsNew(t *testing.T) {
	t.Parallel()
	dir, dirB := shortDir(t), shortDir(t)
	server := etcdServer(t, dir)
	a := open(t, "a", shortDir(t), at(t, server.endpoint))
	b := open(t, "b", dirB, at(t, server.endpoint))
	if _, err := b.List(); !errors.Is(err, ErrNoList) {
		t.Errorf("before the engine is known: %v", err)
	}
	a.SetLocal(local())
	b.SetLocal(local(ctr("b", "1", "10.0.1.1", "web"), ctr("b", "2", "10.0.1.2", "web")))
	settled(t, b)
	eventually(t, "b's tasks", func() bool { return tasks(a, "web") == "b/1 b/2" })
	first := b.Edition()
	if first.Generation == 0 || first.Stored == 0 || a.Outdated("b", first) {
		t.Errorf("with etcd the list is %+v, outdated %t", first, a.Outdated("b", first))
	}
	server.close()

	// The address of the task that dies is given to one of another service.
	now := []model.Container{ctr("b", "2", "10.0.1.2", "web"), ctr("b", "3", "10.0.1.1", "other"), ctr("b", "4", "10.0.1.4", "web")}
	b.SetLocal(local(now...))
	if e := b.Edition(); e.Generation <= first.Generation || e.Stored != 0 {
		t.Errorf("after a change the list is %+v", e)
	}
	fetch(t, a, b)
	if got := a.HostLists(); !got["b"] || len(got) != 1 {
		t.Errorf("lists in use: %v", got)
	}
	eventually(t, "b's tasks without etcd", func() bool { return tasks(a, "web") == "b/2 b/4" && tasks(a, "other") == "b/3" })
	fetch(t, a, b) // nothing is new
	revision := a.Snapshot().Revision

	// Etcd comes back without b's changes: its records are not used.
	b.Close()
	ever := seen(t.Context(), t, a, "web")
	server = etcdServer(t, dir)
	settled(t, a)
	eventually(t, "a's records are etcd's", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.hostLists["b"].records) == 2
	})
	if a.Snapshot().Revision != revision {
		t.Errorf("etcd's old records made Snapshots: %s", ever())
	}
	b = open(t, "b", dirB, at(t, server.endpoint))
	b.SetLocal(local(now...))
	settled(t, b)
	eventually(t, "etcd's records are used again", func() bool { fetch(t, a, b); return len(a.HostLists()) == 0 })
	if got := tasks(a, "web") + ", " + tasks(a, "other"); got != "b/2 b/4, b/3" {
		t.Errorf("after all, web and other have %s", got)
	}
	if got := ever(); strings.Contains(got, "b/1") {
		t.Errorf("the dead task was there again: %s", got)
	}
	b.SetLocal(local())
	eventually(t, "what follows comes by etcd", func() bool { return tasks(a, "web") == "no service" })
}

func TestAListThatIsNotTheHostsIsRefused(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t))
	b := open(t, "b", shortDir(t), beside(t, a))
	a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web")))
	b.SetLocal(local())
	eventually(t, "two hosts", func() bool { s := a.Snapshot(); return s != nil && len(s.Nodes) == 2 })
	one := Edition{Generation: 1}
	for name, l := range map[string]List{
		"its own":                    {Node: "a", Edition: one},
		"of nobody":                  {Node: "c", Edition: one},
		"with another's":             {Node: "b", Edition: one, Containers: []model.Container{ctr("a", "1", "10.0.0.7", "web")}},
		"with a task of another's":   {Node: "b", Edition: one, Containers: []model.Container{{ID: "1", Node: "b", Tasks: ctr("a", "1", "10.0.0.7", "web").Tasks}}},
		"with a task of another one": {Node: "b", Edition: one, Containers: []model.Container{{ID: "2", Node: "b", Tasks: ctr("b", "1", "10.0.0.7", "web").Tasks}}},
	} {
		if err := a.SetList(l); err == nil {
			t.Errorf("a list %s is taken", name)
		}
	}
	if got := tasks(a, "web"); got != "a/1" {
		t.Errorf("web has %s", got)
	}
}
