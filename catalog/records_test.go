package catalog

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"shoal/model"
)

// TestTasksOfAServiceShareOneSpec, as long as theirs are alike; and a record without one costs nobody anything.
func TestTasksOfAServiceShareOneSpec(t *testing.T) {
	r := newRecords("a")
	web := model.ServiceID{Stack: "shop", Name: "web"}
	put := func(id string, spec *model.Spec) *model.Spec {
		r.putContainer(model.Container{ID: id, Name: id, Node: "b", Stack: "shop", Since: time.Unix(1, 0), Tasks: []model.Task{
			{Service: model.ServiceID{Stack: "shop", Name: "other"}, Spec: &model.Spec{Mode: model.ModeDNSRR}},
			{Service: web, Addr: netip.MustParseAddr("10.244.2.2"), Spec: spec},
		}})
		return r.containers["b"][id].Tasks[1].Spec
	}
	like := func() *model.Spec {
		return &model.Spec{Mode: model.ModeVIP, Scheduler: "rr", Ports: []model.Port{{Port: 80, Target: 8080, Protocol: model.TCP}}}
	}
	first := put("1", like())
	for i := range 3 {
		if put(fmt.Sprint(2+i), like()) != first {
			t.Error("a task that is like the first has a Spec of its own")
		}
	}
	unlike := like()
	unlike.Scheduler = "lc"
	if got := put("5", unlike); got == first || got.Scheduler != "lc" {
		t.Errorf("a task that is unlike the first has %+v", got)
	}
	if got := put("6", nil); got == nil || got.Mode != "" {
		t.Errorf("a task whose record has no Spec has %+v", got)
	}
}

func TestAContainerIsKeptInOnePieceAndOneString(t *testing.T) {
	r := newRecords("a")
	put := func(id string) model.Container {
		service := model.ServiceID{Stack: "shop", Name: "web"}
		return model.Container{ID: id, Name: "web-" + id, Node: "b", Stack: "shop", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Tasks: []model.Task{
			{Service: service, Node: "b", Container: id, Name: "web-" + id, Addr: netip.MustParseAddr("10.0.0.1"), State: model.Draining, Spec: &model.Spec{Scheduler: "rr"}},
		}}
	}
	r.putContainer(put("1"))
	ctr := put("2")
	if n := testing.AllocsPerRun(100, func() { r.compact(&ctr) }); n > 2 {
		t.Errorf("it takes %.0f pieces of memory", n)
	}
	r.putContainer(ctr)
	if is := put("2"); !reflect.DeepEqual(ctr, is) {
		t.Errorf("what was put has changed: %+v, was %+v", ctr, is)
	}
	kept := r.containers["b"]["2"]
	if kept.ID != "2" || kept.Name != "web-2" || kept.Tasks[0].Container != "2" || kept.Tasks[0].Spec != r.containers["b"]["1"].Tasks[0].Spec {
		t.Errorf("kept: %+v", kept)
	}
	if kept.Tasks[0].Seen.IsZero() {
		t.Error("it is not noted since when another host's task drains")
	}
}
