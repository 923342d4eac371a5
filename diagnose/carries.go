package diagnose

import (
	"context"
	"strconv"
	"sync"

	"shoal/model"
)

// carriesSteps tell of hosts with tasks to which large packets do not arrive: a
// connection to them is made, and then stands still.
func (in *Inspector) carriesSteps(ctx context.Context, e *walk, s *model.Snapshot, svc *model.Service) {
	type path struct {
		to           model.Node
		arrive, sent int
	}
	var paths []*path
	known := map[string]bool{s.Self.Name: true}
	var tried sync.WaitGroup
	for _, t := range svc.InRotation() {
		n, ok := nodeOf(s, t.Node)
		if !ok || known[n.Name] || !n.Alive || !n.Subnet.Contains(t.Addr) || len(paths) == maxSights {
			continue
		}
		known[n.Name] = true
		p := &path{to: n}
		paths = append(paths, p)
		tried.Go(func() { p.arrive, p.sent = in.Carries(ctx, n) })
	}
	tried.Wait()
	for _, p := range paths {
		if p.arrive > 0 && p.arrive < p.sent {
			e.fix("mtu", "have the network between the hosts carry them, or lower the MTU of the network cards that lead to it, on both hosts: ip link set dev DEVICE mtu "+strconv.Itoa(p.arrive),
				"packets to containers on host %s arrive up to about %d octets, and are lost on the way if they are larger; containers send up to %d: small requests are answered, large ones stand still", p.to.Name, p.arrive, p.sent)
		}
	}
}
