package ipvs

import (
	"fmt"
	"slices"
	"time"

	"shoal/kernel/ipset"
	"shoal/model"
)

// touched are the fronts and the entries of sets without marks that a pass has
// to compare with the kernel.
type touched struct {
	all     bool // each of them
	fronts  map[front]bool
	entries map[string]map[ipset.Entry]bool // by set
	orphans map[uint32]bool                 // marks of services that no front has
}

func newTouched(all bool) touched {
	return touched{all, map[front]bool{}, map[string]map[ipset.Entry]bool{}, map[uint32]bool{}}
}

func (t touched) entry(set string, e ipset.Entry) {
	if t.all {
		return
	}
	if t.entries[set] == nil {
		t.entries[set] = map[ipset.Entry]bool{}
	}
	t.entries[set][e] = true
}

func (t touched) front(f front) {
	if !t.all {
		t.fronts[f] = true
	}
}

// changed walks two Snapshots side by side and calls visit for each service
// that is not the same in both; one of the two is nil where it is new or gone.
func changed(old, new *model.Snapshot, visit func(old, new *model.Service)) {
	var a []model.Service
	if old != nil {
		a = old.Services
	}
	b := new.Services
	for len(a) > 0 || len(b) > 0 {
		order := 0
		switch {
		case len(a) == 0:
			order = 1
		case len(b) == 0:
			order = -1
		default:
			order = a[0].ID.Compare(b[0].ID)
		}
		switch {
		case order < 0:
			visit(&a[0], nil)
			a = a[1:]
		case order > 0:
			visit(nil, &b[0])
			b = b[1:]
		default:
			if !same(&a[0], &b[0]) {
				visit(&a[0], &b[0])
			}
			a, b = a[1:], b[1:]
		}
	}
}

// same tells whether nothing differs that the balancer looks at.
func same(a, b *model.Service) bool {
	return a.VIP == b.VIP && a.Spec.Mode == b.Spec.Mode && a.Spec.Scheduler == b.Spec.Scheduler &&
		a.Spec.Affinity == b.Spec.Affinity && a.Spec.PreferLocal == b.Spec.PreferLocal && len(a.Tasks) == len(b.Tasks) && sameTasks(a.Tasks, b.Tasks)
}

func sameTasks(a, b []model.Task) bool {
	for i := range a {
		t, u := &a[i], &b[i]
		if t.Addr != u.Addr || t.State != u.State || t.Weight != u.Weight || t.Node != u.Node ||
			t.State == model.Draining && !t.DrainDeadline().Equal(u.DrainDeadline()) ||
			!slices.Equal(t.Spec.Ports, u.Spec.Ports) {
			return false
		}
	}
	return true
}

// partOf is what a service wants.
func partOf(s *model.Service, self model.Node) *part {
	p := &part{fronts: fronts(s, self.Name)}
	tasks, local, hairpin := addresses(s, self)
	for _, a := range tasks {
		p.tasks = append(p.tasks, ipset.Addr(a))
	}
	for _, a := range local {
		p.local = append(p.local, ipset.Addr(a))
	}
	for _, a := range hairpin {
		p.hairpin = append(p.hairpin, ipset.Pair(a, a))
	}
	return p
}

// update puts a service's part in the place of the one it had; nil takes it
// out.
func (b *Balancer) update(id model.ServiceID, part *part, t touched) {
	old := b.parts[id]
	delete(b.parts, id)
	for _, v := range old.fronts {
		if b.owner[v.front] == id {
			delete(b.owner, v.front)
			t.front(v.front)
			delete(b.failing, object{front: v.front}) // what failed may work now
		}
	}
	b.count(&old, -1, t)
	if part == nil {
		return
	}
	for i, v := range part.fronts {
		if other, taken := b.owner[v.front]; taken {
			// VIPs are given out once; should that ever fail, who has it keeps it.
			b.failing.put(object{part: vipPart + v.front.vip.String()},
				fmt.Errorf("services %s and %s both have it, and %[1]s keeps it: remove one with `shoal service rm`", other, id), time.Now())
			part.fronts = part.fronts[:i]
			break
		}
		b.owner[v.front] = id
		t.front(v.front)
	}
	b.count(part, +1, t)
	b.parts[id] = *part
}

// count adds what a part wants in sets without marks, or takes it off.
func (b *Balancer) count(p *part, n int, t touched) {
	add := func(set ipset.Set, e ipset.Entry) {
		b.wants(set, e, n, t)
	}
	for _, e := range p.tasks {
		add(setTasks, e)
	}
	for _, e := range p.local {
		add(setLocal, e)
	}
	for _, e := range p.hairpin {
		add(setHairpin, e)
	}
	for i := range p.fronts {
		if p.fronts[i].Live() {
			add(setPing, ipset.Addr(p.fronts[i].front.vip))
		}
	}
}

func (b *Balancer) wants(set ipset.Set, e ipset.Entry, n int, t touched) {
	w := b.want[set.Name]
	if w[e] += n; w[e] == 0 {
		delete(w, e)
	}
	t.entry(set.Name, e)
}

// networks brings this host's container networks up to date.
func (b *Balancer) networks(old, new *model.Snapshot, t touched) {
	each := func(s *model.Snapshot, n int) {
		if s == nil {
			return
		}
		for _, network := range s.Networks {
			for _, p := range network.Subnets {
				if p.Addr().Is4() && p.Bits() > 0 {
					b.wants(setNets, ipset.Entry{Net: p.Masked()}, n, t)
					b.wants(setBridges, ipset.NetIface(p, network.Bridge), n, t)
				}
			}
		}
	}
	each(old, -1)
	each(new, +1)
}

// wanted is how a front is to be balanced; nil: it is to go.
func (b *Balancer) wanted(f front) *balanced {
	id, has := b.owner[f]
	if !has {
		return nil
	}
	all := b.parts[id].fronts
	i, _ := slices.BinarySearchFunc(all, f, balanced.compare)
	return &all[i]
}

// vipPart begins the object of a VIP that two services have.
const vipPart = "VIP "
