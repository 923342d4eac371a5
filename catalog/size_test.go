package catalog

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"shoal/model"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// publishing is a container that publishes so many ports.
func publishing(id string, ports int) model.Container {
	c := ctr("a", id, "10.0.0.1", "web")
	for i := range ports {
		c.Tasks[0].Spec.Publish = append(c.Tasks[0].Spec.Publish,
			model.PublishedPort{IP: netip.MustParseAddr("127.0.0.1"), Published: uint16(i + 1), Target: uint16(i + 1), Protocol: model.TCP})
	}
	return c
}

// TestARecordThatLacksWhatItsServiceIs: of another version, or of somebody who writes into the store.
func TestARecordThatLacksWhatItsServiceIs(t *testing.T) {
	c := ctr("a", "1", "10.0.0.1", "web")
	c.Tasks[0].Spec = nil
	if b := bounded(c); b.Problem != "" || len(b.Tasks) != 1 {
		t.Errorf("it is %+v", b)
	}
}

func TestARecordThatIsTooLargeIsAProblem(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t))
	a.SetLocal(local(publishing("huge", 7000), publishing("large", 700), ctr("a", "small", "10.0.0.2", "web")))
	settled(t, a)
	if got := tasks(a, "web"); got != "a/large a/small" {
		t.Errorf("tasks %q", got)
	}
	if c := a.Snapshot().Containers.Of("a")[0]; c.ID != "huge" || c.ProblemCode != model.RecordTooLarge || !strings.Contains(c.Problem, "65536 are the most") {
		t.Errorf("container %s has the problem %q: %s", c.ID, c.ProblemCode, c.Problem)
	}
	r, err := a.client.Get(t.Context(), taskKey("a", ""), clientv3.WithPrefix())
	if err != nil || len(r.Kvs) != 3 {
		t.Fatalf("not all three are recorded: %v", err)
	}
	for _, kv := range r.Kvs {
		if len(kv.Value) > 64<<10 {
			t.Errorf("%s has %d bytes", kv.Key, len(kv.Value))
		}
	}
}

// TestASizeIsBoundedWithoutWriting: what is left unwritten is not larger than was thought.
func TestASizeIsBoundedWithoutWriting(t *testing.T) {
	long := strings.Repeat("\x01", 1000)
	c := publishing("x", 500)
	c.Name, c.Problem, c.Notices = long, long, []model.Notice{{Code: model.TaskFlapping, Text: long}}
	c.Stack, c.Since = strings.Repeat("s", 63), time.Now()
	for i := range 500 {
		c.Addrs = append(c.Addrs, netip.MustParseAddr("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"))
		c.Tasks[0].Spec.Ports = append(c.Tasks[0].Spec.Ports, model.Port{Name: strings.Repeat("n", 15), Port: 65535, Target: 65535, Protocol: model.SCTP})
		c.Tasks[0].Spec.Publish[i] = model.PublishedPort{IP: c.Addrs[1], Published: 65535, Target: 65535, Protocol: model.SCTP}
	}
	task := &c.Tasks[0]
	task.Name, task.Container, task.Since, task.Started = long, long, time.Now(), time.Now()
	task.Service = model.ServiceID{Stack: c.Stack, Name: c.Stack}
	task.Spec.PublishLocal, task.Spec.PreferLocal, task.Spec.Affinity, task.Spec.VIP = true, true, 24*time.Hour, c.Addrs[1]
	task.Drain, task.Weight, task.Spec.Scheduler = time.Hour, 65535, "lblcr"
	for i := range 32 {
		more := *task
		more.Service.Name = fmt.Sprintf("%s%02d", c.Stack[:61], i)
		c.Tasks = append(c.Tasks, more)
	}
	if size, most := len(encode(&c)), atMost(&c); size > most {
		t.Errorf("a record of %d bytes was thought to have %d at most", size, most)
	}
}
