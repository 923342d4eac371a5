package agent

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"shoal/cluster"
	"shoal/lb"
	"shoal/model"
	"shoal/store"
)

// A host that has moved is at an address that the others do not know, and which is
// not let in to gossip and the store. So it shows its certificate to their joining
// port, and each that it has shown it to lets that address in for greetingLasts:
// meanwhile the record of the host says the new one. A host that joins has shown a
// token, and is let in by the list of members.
const (
	greetingLasts = 10 * time.Minute
	greetEvery    = 3 * time.Second
	greetTimeout  = 2 * time.Second
	greetParallel = 16
)

// doors is who is let in to the ports of this host's agent, beside the hosts that the
// Snapshot has.
type doors struct {
	changed chan struct{} // of capacity 1

	mu      sync.Mutex
	members []netip.Addr
	greeted map[netip.Addr]time.Time // by address, until when
}

func newDoors() *doors {
	return &doors{changed: make(chan struct{}, 1), greeted: map[netip.Addr]time.Time{}}
}

// greet lets an address in that has shown a certificate of the cluster.
func (d *doors) greet(a netip.Addr, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, known := d.greeted[a]
	known = known || slices.Contains(d.members, a)
	d.greeted[a] = now.Add(greetingLasts)
	if !known {
		d.signal()
	}
}

// setMembers says which hosts belong to the cluster.
func (d *doors) setMembers(ms []cluster.Member) {
	var addrs []netip.Addr
	for _, m := range ms {
		addrs = append(addrs, m.Addr)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Equal(addrs, d.members) {
		d.members = addrs
		d.signal()
	}
}

func (d *doors) signal() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// addrs are those that are let in now.
func (d *doors) addrs(now time.Time) []netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.greeted, func(_ netip.Addr, until time.Time) bool { return !now.Before(until) })
	return slices.Concat(d.members, slices.Collect(maps.Keys(d.greeted)))
}

// admits tells whether an address is let in now.
func (d *doors) admits(a netip.Addr, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, member := slices.BinarySearchFunc(d.members, a, netip.Addr.Compare)
	return member || now.Before(d.greeted[a])
}

// isMember tells whether an address is that of a host of the cluster, as the list of
// members, a certificate that was shown or the last Snapshot says.
func (m *membership) isMember(a netip.Addr) bool {
	if m.doors.admits(a, time.Now()) {
		return true
	}
	if s := m.catalog.Snapshot(); s != nil {
		return slices.ContainsFunc(s.Nodes, func(n model.Node) bool { return n.Addr == a })
	}
	for _, known := range m.peers() { // of the last run
		if known == a {
			return true
		}
	}
	return false
}

// guard is what the data plane is to guard of the agents' ports. An etcd of the user's
// is none of ours.
func (m *membership) guard() lb.Guard {
	role := m.store.Role()
	g := lb.Guard{Join: cluster.DefaultPort, Trusted: m.doors.addrs(time.Now()),
		RemoteTCP: []uint16{cluster.DefaultPort, cluster.DefaultGossipPort}, RemoteUDP: []uint16{cluster.DefaultGossipPort}}
	if role != store.RoleAlone {
		g.TCP, g.UDP = []uint16{cluster.DefaultGossipPort}, []uint16{cluster.DefaultGossipPort}
	}
	if role == store.RoleServer {
		g.TCP = append(g.TCP, store.ClientPort, store.PeerPort)
	}
	if role != store.RoleExternal {
		g.RemoteTCP = append(g.RemoteTCP, store.ClientPort, store.PeerPort)
	}
	return g
}

// followMembers lets the members in for as long as ctx lasts.
func (m *membership) followMembers(ctx context.Context) {
	m.reg.FollowMembers(ctx, m.doors.setMembers)
}

// greetOthers shows this host's certificate to those that do not answer by gossip.
func (m *membership) greetOthers(ctx context.Context, live *cluster.Liveness) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(greetEvery):
		}
		var all errgroup.Group
		all.SetLimit(greetParallel)
		for _, p := range live.States() {
			if !p.Heard.IsZero() && time.Since(p.Heard) < greetEvery {
				continue
			}
			all.Go(func() error {
				if err := sayHello(ctx, m.id.HTTPClient(), netip.AddrPortFrom(p.Addr, cluster.DefaultPort)); err != nil {
					m.log.Debug("greet a host that does not answer by gossip", "node", p.Node, "error", err)
				}
				return nil
			})
		}
		_ = all.Wait()
	}
}

func sayHello(ctx context.Context, c *http.Client, at netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://%s/v1/hello", at), nil)
	if err != nil {
		return err
	}
	r, err := c.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<10))
	return err
}
