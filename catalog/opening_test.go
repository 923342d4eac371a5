package catalog

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"shoal/model"
)

// starting is a container whose task is not in rotation yet.
func starting(node, id, addr, service string) model.Container {
	c := ctr(node, id, addr, service)
	c.Tasks[0].State = model.Starting
	return c
}

func applies(o *Options) { o.Applies = true }

func TestATaskIsToldOnceTheDataPlaneHasIt(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t), applies)
	b := open(t, "b", shortDir(t), beside(t, a))
	b.SetLocal(local())

	a.SetLocal(local(ctr("a", "1", "10.0.0.1", "web"), starting("a", "2", "10.0.0.2", "web")))
	eventually(t, "a's own tasks", func() bool { return tasks(a, "web") == "a/1 a/2" })
	eventually(t, "the task that is starting, alone", func() bool { return tasks(b, "web") == "a/2" })
	settled(t, a)
	if _, err := a.List(); !errors.Is(err, ErrNoList) {
		t.Errorf("a's list before its data plane has all of it: %v", err)
	}
	a.Applied(a.Snapshot().Revision)
	eventually(t, "both tasks", func() bool { return tasks(b, "web") == "a/1 a/2" })
	if l, err := a.List(); err != nil || len(l.Containers) != 2 {
		t.Errorf("a's list then: %+v, %v", l, err)
	}

	// What leaves is told at once, what comes in its place is not.
	a.SetLocal(local(ctr("a", "2", "10.0.0.2", "web"), ctr("a", "3", "10.0.0.1", "web")))
	eventually(t, "a's own tasks", func() bool { return tasks(a, "web") == "a/2 a/3" })
	eventually(t, "that one task left", func() bool { return tasks(b, "web") == "a/2" })
	if s, _ := b.Snapshot().Service(model.ServiceID{Stack: model.DefaultStack, Name: "web"}); s.Tasks[0].State != model.Starting {
		t.Errorf("the other one is %s, before the data plane has it in rotation", s.Tasks[0].State)
	}
	waiting := func() (n int, revision uint64) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.opening), a.opening["2"].revision
	}
	_, revision := waiting()
	a.Applied(revision - 1)
	if n, _ := waiting(); n != 2 {
		t.Errorf("%d containers wait, after the Snapshot before the one with their tasks was applied; want 2", n)
	}
	a.Applied(a.Snapshot().Revision)
	eventually(t, "both tasks", func() bool { return tasks(b, "web") == "a/2 a/3" })
}

// before is what a catalog knows before it reaches etcd.
func before(node string) *Catalog {
	return &Catalog{
		o: Options{Self: model.Node{Name: node}, Applies: true}, records: newRecords(node), localIs: make(chan struct{}),
		changed: make(chan struct{}, 1), unsaved: make(chan struct{}, 1), listed: make(chan struct{}),
		want: map[string]uint64{}, have: map[string]keptRecord{}, opening: map[string]opening{}, local: ownList{changed: make(chan struct{}, 1)},
	}
}

// The data plane may hang, and there is no Snapshot as long as etcd is waited for.
func TestATaskIsToldInTheEndWithoutTheDataPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := before("a")
		c.SetLocal(local(ctr("a", "1", "10.0.0.1", "web")))
		time.Sleep(openingLimit - time.Second)
		c.SetLocal(local(ctr("a", "1", "10.0.0.1", "web"), ctr("a", "2", "10.0.0.2", "web")))
		if n := len(c.drift(0)); n != 0 || c.Edition() != (Edition{}) {
			t.Errorf("at first there are %d records to write, and the list is %+v", n, c.Edition())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(c.drift(0)); n != 1 || c.Edition() != (Edition{}) {
			t.Errorf("after %v there are %d records to write, and the list is %+v; want the first", openingLimit, n, c.Edition())
		}
		time.Sleep(openingLimit)
		synctest.Wait()
		if l, err := c.List(); err != nil || len(c.drift(0)) != 2 || len(l.Containers) != 2 {
			t.Errorf("in the end there are %d records to write, and the list is %+v, %v", len(c.drift(0)), l, err)
		}
	})
}

func TestOnlyWhatComesIntoRotationWaits(t *testing.T) {
	in := ctr("a", "1", "10.0.0.1", "web")
	moved := ctr("a", "1", "10.0.0.2", "web")
	heavier := ctr("a", "1", "10.0.0.1", "web")
	heavier.Tasks[0].Weight = 7
	out := starting("a", "1", "10.0.0.1", "web")
	other := ctr("a", "1", "10.0.0.1", "other")
	for name, tt := range map[string]struct {
		old   *model.Container
		is    model.Container
		waits bool
	}{
		"new":                  {nil, in, true},
		"new, not in rotation": {nil, out, false},
		"no task":              {nil, ctr("a", "1", "10.0.0.1"), false},
		"into rotation":        {&out, in, true},
		"out of rotation":      {&in, out, false},
		"as before":            {&in, in, false},
		"another weight":       {&in, heavier, false},
		"another address":      {&in, moved, true},
		"of another service":   {&in, other, true},
	} {
		c := before("a")
		c.noteOpening(tt.old, &tt.is)
		if got := len(c.opening) == 1; got != tt.waits {
			t.Errorf("%s: it waits: %t, want %t", name, got, tt.waits)
		}
	}
}
