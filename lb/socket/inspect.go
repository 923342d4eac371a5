package socket

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf/link"

	"shoal/lb"
	"shoal/model"
)

// Inspect reads what the kernel has of a VIP or of a published port. Of a VIP it
// adds a step "socket", with the programs and where they are attached, and one to
// each frontend, with its entry of the maps. Connections that were led are counted
// with their backends.
func (p *Plane) Inspect(ctx context.Context, k lb.Key) (*lb.View, error) {
	v, err := p.next.Inspect(ctx, k)
	if err != nil || k.Published() {
		return v, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	v.Steps = append([]lb.Step{p.programsStep()}, v.Steps...)
	entries := map[lb.Key]service{}
	if err := list(p.maps, "services", func(k serviceKey, s service) { entries[k.key()] = s }); err != nil {
		return nil, err
	}
	for i := range v.Fronts {
		f := &v.Fronts[i]
		if !p.around.ours(f.Key) {
			continue
		}
		step, err := p.entryStep(f.Key, entries)
		if err != nil {
			return nil, err
		}
		f.Steps = append([]lb.Step{step}, f.Steps...)
	}
	now := time.Now()
	return v, list(p.maps, "peers", func(_ uint64, to peer) {
		if ends, _ := p.ends(&to, now); !ends {
			addPeer(v.Fronts, entries, &to)
		}
	})
}

// programsStep looks which programs are attached where.
func (p *Plane) programsStep() lb.Step {
	step := lb.Step{What: "socket", OK: true}
	var lines []string
	for i := range hooks {
		if !p.programs.wants(&hooks[i]) {
			continue
		}
		line, err := p.programs.look(&hooks[i])
		if err != nil {
			line, step.OK = err.Error(), false
		}
		lines = append(lines, line)
	}
	step.Evidence = strings.Join(lines, "\n")
	return step
}

// look tells of a hook's link and program, if they are there.
func (p *programs) look(h *hook) (string, error) {
	l, info, err := openLink(p.pin(h))
	if err != nil {
		return "", err
	}
	if l == nil {
		return "", fmt.Errorf("%s: nothing is pinned at %s", h.name, p.pin(h))
	}
	defer l.Close()
	cgroup, err := os.Open(p.cgroup)
	if err != nil {
		return "", err
	}
	defer cgroup.Close()
	found, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: h.attach})
	if err != nil {
		return "", fmt.Errorf("%s: ask which programs the cgroup %s has: %w", h.name, p.cgroup, err)
	}
	if !slices.ContainsFunc(found.Programs, func(a link.AttachedProgram) bool { return a.ID == info.Program }) {
		return "", fmt.Errorf("%s: the program %d of the link %d is not attached to the cgroup %s", h.name, info.Program, info.ID, p.cgroup)
	}
	if ok, err := p.current(h, l); err != nil || !ok {
		return "", cmp.Or(err, fmt.Errorf("%s: the program %d is not the one that this version of shoal has", h.name, info.Program))
	}
	return fmt.Sprintf("%s at %s: program %d, link %d", h.name, p.cgroup, info.Program, info.ID), nil
}

// entryStep looks what the maps have of a frontend.
func (p *Plane) entryStep(k lb.Key, entries map[lb.Key]service) (lb.Step, error) {
	step := lb.Step{What: "socket"}
	s, found := entries[k]
	f := p.frontends[k]
	if !found || f == nil {
		step.Evidence = "the BPF map services has no entry " + k.String()
		return step, nil
	}
	have := 0
	for i := range s.Slots {
		var v slot
		err := p.maps.byName["slots"].Lookup(slotKey{s.Filling, i}, &v)
		if err == nil && v.VIP == k.VIP.As4() {
			have++
		}
	}
	count, err := p.count(s.Frontend)
	if err != nil {
		return step, err
	}
	w, why := p.around.want(f)
	step.OK = have == int(s.Slots) && len(w.slots) == have
	switch {
	case s.Slots > 0:
		chooser := "in turn"
		if s.Chooser == byClient {
			chooser = "by client"
		}
		step.Evidence = fmt.Sprintf("services %s: %d slots, %s; %d connections so far", k, s.Slots, chooser, count)
		if have != int(s.Slots) {
			step.Evidence += fmt.Sprintf("; %d of the slots are there", have)
		}
	case why != "":
		step.Evidence = fmt.Sprintf("services %s: left to the data plane: %s", k, why)
	default:
		step.Evidence = fmt.Sprintf("services %s: no slots, where there should be %d", k, len(w.slots))
	}
	return step, nil
}

// count is how many connections of a frontend were led.
func (p *Plane) count(number uint32) (n uint64, err error) {
	if err = p.maps.byName["counts"].Lookup(number, &n); err != nil {
		err = fmt.Errorf("read the BPF map counts: %w", err)
	}
	return n, err
}

// addPeer counts a connection with the backend that it is led to.
func addPeer(fronts []lb.FrontView, entries map[lb.Key]service, to *peer) {
	vip, task := to.vip(), to.task()
	k := lb.Key{VIP: vip.Addr(), Protocol: model.Protocol(to.Protocol), Port: vip.Port()}
	if _, named := entries[k]; !named {
		k.Port = 0
	}
	i := slices.IndexFunc(fronts, func(f lb.FrontView) bool { return f.Key == k })
	if i < 0 {
		return
	}
	f := &fronts[i]
	j := slices.IndexFunc(f.Backends, func(b lb.BackendView) bool {
		return b.Addr.Addr() == task.Addr() && (b.Addr.Port() == 0 || b.Addr.Port() == task.Port())
	})
	if j < 0 {
		at := netip.AddrPortFrom(task.Addr(), 0)
		if k.Port != 0 {
			at = task
		}
		j = len(f.Backends)
		f.Backends = append(f.Backends, lb.BackendView{Addr: at})
	}
	f.Backends[j].Active++
}

// Held adds the TCP connections that were led to the task, and whose sockets are
// open, to what the plane behind has.
func (p *Plane) Held(task netip.Addr) (lb.Held, error) {
	h, err := p.next.Held(task)
	if err != nil || !task.Is4() {
		return h, err
	}
	a := task.As4()
	p.mu.Lock()
	defer p.mu.Unlock()
	return h, list(p.maps, "peers", func(_ uint64, to peer) {
		if to.Task == a && to.Protocol == protoTCP {
			h.Connections++
		}
	})
}

// Stats adds the connections that were led to what the plane behind counts.
func (p *Plane) Stats(visit func(lb.Key, lb.Stats)) error {
	if err := p.next.Stats(visit); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var failed error
	err := list(p.maps, "services", func(k serviceKey, s service) {
		n, err := p.count(s.Frontend)
		if err != nil {
			failed = err
			return
		}
		visit(k.key(), lb.Stats{Connections: n, Led: n})
	})
	return cmp.Or(err, failed)
}
