package catalog

import (
	"fmt"
	"net/netip"
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
