package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"shoal/catalog"
	"shoal/lab"
	"shoal/model"
)

// fakeNodes is on how many hosts the services without containers are said to be.
const fakeNodes = 100

// fakeNode is the host of the i-th of them.
func fakeNode(i int) string { return fmt.Sprintf("elsewhere-%02d", i%fakeNodes) }

// fakeTasks is how many tasks each of those services has, and manyTasks how many it has in the end.
const (
	fakeTasks = 2
	manyTasks = 10
)

// fakeAddr is where a task of the i-th of them is: nobody has these addresses.
func fakeAddr(i, task int) netip.Addr { return nth(fmt.Sprintf("10.%d.0.0", 200+task), i) }

// fake is the container of a task of the i-th service without containers.
func fake(i, task int, state model.State) model.Container {
	id := fmt.Sprintf("s%05d-%d", i, task)
	addr := fakeAddr(i, task)
	return model.Container{
		ID: id, Name: id, Node: fakeNode(i), Stack: model.DefaultStack, Addrs: []netip.Addr{addr}, Since: time.Unix(1, 0),
		Tasks: []model.Task{{
			Service: fakeID(i), Node: fakeNode(i), Container: id, Name: id, Addr: addr, State: state,
			Since: time.Unix(1, 0), Started: time.Unix(1, 0), Weight: 1,
			Spec: &model.Spec{Mode: model.ModeVIP, Scheduler: "rr"},
		}},
	}
}

func fakeID(i int) model.ServiceID {
	return model.ServiceID{Stack: model.DefaultStack, Name: fmt.Sprintf("s%05d", i)}
}

// The VIPs of the services that have containers here: chosen by the agent, they could be
// any of the pool.
const (
	webVIP   = "10.96.1.1"
	comerVIP = "10.96.1.2"
)

// fakeVIP is none of those.
func fakeVIP(i int) netip.Addr { return nth("10.96.128.0", i) }

// nth is the i-th address after another.
func nth(addr string, i int) netip.Addr {
	a := netip.MustParseAddr(addr).As4()
	i += int(a[2])<<8 | int(a[3])
	a[2], a[3] = byte(i>>8), byte(i)
	return netip.AddrFrom4(a)
}

// fill brings the number of services to n, with records in the agent's store, and
// waits until the kernel has them.
func (w *world) fill(n int) {
	start := time.Now()
	had := w.fakes + 1
	var puts []clientv3.Op
	for ; w.fakes+1 < n; w.fakes++ {
		id := fakeID(w.fakes)
		vip := fakeVIP(w.fakes)
		for task := range fakeTasks {
			puts = append(puts, w.putFake(w.fakes, task, model.Running))
		}
		puts = append(puts, w.put("services/"+id.String(), catalog.ServiceRecord{VIP: vip, Created: time.Unix(1, 0)}),
			w.put("vips/"+vip.String(), id))
	}
	w.write(puts)
	w.awaitFakes()
	if n > had {
		w.Logf("%d services more, from the store to the kernel: %.1f s", n-had, time.Since(start).Seconds())
	}
}

// fillTasks gives each service without containers manyTasks, and waits until the kernel has those of the last one.
func (w *world) fillTasks() {
	start := time.Now()
	var puts []clientv3.Op
	for i := range w.fakes {
		for task := fakeTasks; task < manyTasks; task++ {
			puts = append(puts, w.putFake(i, task, model.Running))
		}
	}
	w.write(puts)
	last := fakeVIP(w.fakes - 1)
	lab.Eventually(w, waitLimit, fmt.Sprintf("the kernel has %d tasks of the last service", manyTasks), func() error {
		if got := w.rotation(last); got != manyTasks {
			return fmt.Errorf("it has %d", got)
		}
		return nil
	})
	w.Logf("%d tasks more, from the store to the kernel: %.1f s", len(puts), time.Since(start).Seconds())
}

// write puts records into the store.
func (w *world) write(puts []clientv3.Op) {
	for batch := range slices.Chunk(puts, 120) { // etcd takes 128 in one transaction
		_, err := w.etcd.Txn(context.Background()).Then(batch...).Commit()
		w.must("write services into the store", err)
	}
}

// awaitFakes waits until the kernel has all services. It rests for longer than it looks:
// a list of ten thousand takes its time from who is to fill it.
func (w *world) awaitFakes() {
	var pause time.Duration
	lab.Eventually(w, waitLimit, fmt.Sprintf("%d services are in the kernel", w.fakes+1), func() error {
		time.Sleep(pause)
		begun := time.Now()
		held := w.vips()
		pause = 9 * time.Since(begun)
		for i := range w.fakes {
			if !held[fakeVIP(i)] {
				return fmt.Errorf("it has %d VIPs, not that of %s", len(held), fakeID(i))
			}
		}
		return nil
	})
}

func (w *world) putFake(i, task int, state model.State) clientv3.Op {
	c := fake(i, task, state)
	return w.put("tasks/"+c.Node+"/"+c.ID, c)
}

func (w *world) put(key string, value any) clientv3.Op {
	text, err := json.Marshal(value)
	w.must("encode "+key, err)
	return clientv3.OpPut("/shoal/v1/"+key, string(text))
}
