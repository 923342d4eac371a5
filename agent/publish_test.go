package agent

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"shoal/catalog"
	"shoal/lab/wait"
	"shoal/model"
)

// TestOnePortLearnsThatTheStoreIsAway: the others do not wait for it to time out again, each by itself.
func TestOnePortLearnsThatTheStoreIsAway(t *testing.T) {
	// One that is connected to, and says nothing.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	self := model.Node{Name: "a"}
	_, c := openStore(t, Config{Node: self.Name, StateDir: stateDir(t), Etcd: []string{silent.Addr().String()}})

	web := model.ServiceID{Stack: "shop", Name: "web"}
	task := model.Task{Service: web, Node: "a", State: model.Running, Spec: &model.Spec{}}
	for port := range uint16(20) {
		task.Spec.Publish = append(task.Spec.Publish, model.PublishedPort{Published: 8000 + port, Target: 80, Protocol: model.TCP})
	}
	s := catalog.NewSnapshot(1, self, nil, []model.Container{{ID: "1", Name: "web-1", Node: "a", Tasks: []model.Task{task}}}, nil)
	s.Published = []model.PortClaim{{Protocol: model.TCP, Port: 53, Service: web}} // to be released
	a := &Agent{catalog: c}
	r := a.publish(t.Context(), s, false)
	if ps := r.Problems; len(ps) != 1 || ps[0].Code != model.StoreUnreachable || !strings.Contains(ps[0].Reason, "21 wait") {
		t.Errorf("the problems are %+v, want one for all ports", ps)
	}
	if r.Again != publishAgain {
		t.Errorf("it is tried again in %v, want %v", r.Again, publishAgain)
	}
}

// TestAClaimIsLookedAtOnceMore: another host may have released the port before a Snapshot had it.
func TestAClaimIsLookedAtOnceMore(t *testing.T) {
	self := model.Node{Name: "a"}
	_, c := openStore(t, Config{Node: self.Name, StateDir: stateDir(t)})
	c.SetLocal(model.Local{})
	web := model.ServiceID{Stack: "shop", Name: "web"}
	port := model.PortClaim{Protocol: model.TCP, Port: 8000, Service: web}
	task := model.Task{Service: web, Node: "a", State: model.Running,
		Spec: &model.Spec{Publish: []model.PublishedPort{{Published: port.Port, Target: 80, Protocol: port.Protocol}}}}
	s := catalog.NewSnapshot(1, self, nil, []model.Container{{ID: "1", Name: "web-1", Node: "a", Tasks: []model.Task{task}}}, nil)
	a := &Agent{catalog: c}
	claimed := func() bool {
		snap := c.Snapshot()
		return snap != nil && slices.Contains(snap.Published, port)
	}
	for range 2 { // the same Snapshot again, as none differs
		if r := a.publish(t.Context(), s, false); len(r.Problems) > 0 || r.Again == 0 || r.Again > time.Second {
			t.Fatalf("once it is claimed: %+v", r)
		}
		wait.For(t, 10*time.Second, "the port is claimed", claimed)
		if err := c.ReleasePort(t.Context(), port); err != nil {
			t.Fatal(err)
		}
		wait.For(t, 10*time.Second, "the port is released", func() bool { return !claimed() })
	}
	shown := *s
	shown.Published = []model.PortClaim{port}
	if r := a.publish(t.Context(), &shown, false); r.Again != 0 {
		t.Errorf("once a Snapshot shows it, it is looked at again in %v", r.Again)
	}
}
