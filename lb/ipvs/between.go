package ipvs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"shoal/kernel/ipset"
	"shoal/kernel/rules"
	"shoal/lb"
)

// The sets that the rules between hosts ask.
var (
	setFabricNets  = ipset.Set{Name: "SHOAL-FABRIC-NETS", Type: "hash:net"}        // of other hosts' containers
	setFabricHosts = ipset.Set{Name: "SHOAL-FABRIC-HOSTS", Type: "hash:ip"}        // other hosts
	setFabricAddrs = ipset.Set{Name: "SHOAL-FABRIC-ADDRS", Type: "hash:ip"}        // all that other hosts send from themselves
	setFabricLinks = ipset.Set{Name: "SHOAL-FABRIC-LINKS", Type: "hash:net,iface"} // sources, and the devices that their packets come in by

	betweenSets = []ipset.Set{setFabricNets, setFabricHosts, setFabricAddrs, setFabricLinks}
)

// tunnels matches all tunnel devices in a rule, whichever there are.
const tunnels = "shoal.+"

// Between has traffic between hosts pass. Full passes repair it from then on.
func (p *Plane) Between(ctx context.Context, b lb.Between) (changed bool, err error) {
	p.between.Lock()
	defer p.between.Unlock()
	if !b.Own.IsValid() {
		return false, nil
	}
	p.passing = &b
	return p.ensureBetween(ctx)
}

// repairBetween does so again, if it was done before.
func (p *Plane) repairBetween(ctx context.Context) error {
	p.between.Lock()
	defer p.between.Unlock()
	if p.passing == nil {
		return nil
	}
	_, err := p.ensureBetween(ctx)
	return err
}

// ensureBetween keeps sets and rules. What is new is let in before what is gone
// is shut out.
func (p *Plane) ensureBetween(ctx context.Context) (changed bool, err error) {
	b := p.passing
	type difference struct {
		set   ipset.Set
		stale entries
	}
	var late []difference
	var errs []error
	want := betweenEntries(b)
	for _, set := range betweenSets {
		held, err := ipset.List(set.Name)
		if errors.Is(err, ipset.ErrNotExist) {
			held, changed = entries{}, true
			if err = ipset.Create(set); err != nil {
				err = fmt.Errorf("%w; run `modprobe ip_set_hash_netiface` on the host, or install the package with the kernel's extra modules", err)
			}
		}
		if err != nil {
			return changed, err // the rules need all of them
		}
		missing, stale := entries{}, entries{}
		for e := range want[set.Name] {
			if _, has := held[e]; !has {
				missing[e] = 0
			}
		}
		for e := range held {
			if _, wanted := want[set.Name][e]; !wanted {
				stale[e] = 0
			}
		}
		changed = changed || len(missing)+len(stale) > 0
		errs = append(errs, refusal(ipset.Put(set, missing)))
		late = append(late, difference{set, stale})
	}
	if err := ensureClosedSets(); err != nil {
		return changed, err
	}
	wrong, err := rules.Keep(ctx, betweenChains(b))
	errs = append(errs, err)
	for _, l := range late {
		errs = append(errs, refusal(ipset.Remove(l.set, l.stale)))
	}
	if len(wrong) > 0 {
		p.log.Info("iptables rules between hosts written", "why", rules.Brief(wrong))
	}
	return changed || len(wrong) > 0, errors.Join(errs...)
}

// betweenEntries are the entries of each set.
func betweenEntries(b *lb.Between) map[string]entries {
	nets, hosts, hostAddrs, links := entries{}, entries{}, entries{}, entries{}
	for _, n := range b.Nets {
		nets[ipset.Entry{Net: n.Masked()}] = 0
	}
	for _, h := range b.Hosts {
		hosts[ipset.Addr(h)] = 0
	}
	for _, a := range b.HostAddrs {
		hostAddrs[ipset.Addr(a)] = 0
	}
	for _, l := range b.Links {
		links[ipset.NetIface(l.Net, l.Device)] = 0
	}
	return map[string]entries{setFabricNets.Name: nets, setFabricHosts.Name: hosts, setFabricAddrs.Name: hostAddrs, setFabricLinks.Name: links}
}

// betweenChains are the rules of a host with that subnet, however many hosts
// there are.
func betweenChains(b *lb.Between) []rules.Chain {
	own := b.Own
	if !own.IsValid() {
		own = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	to, from := "-d "+own.String(), "-s "+own.String()
	notFrom := "! " + from
	// Tunnel packets: from hosts of the cluster, and from nobody else.
	var in, through, out []string
	fromHosts, toHosts := fmt.Sprintf("-m set --match-set %s src", setFabricHosts.Name), fmt.Sprintf("-m set --match-set %s dst", setFabricHosts.Name)
	for _, t := range b.Tunnels {
		outer := outerOf(t)
		in = append(in, fmt.Sprintf("%s %s -j ACCEPT", outer, fromHosts), outer+" -j DROP")
		through = append(through, fmt.Sprintf("%s %s %s -m rpfilter --invert -j DROP", outer, fromHosts, toHosts))
		out = append(out, fmt.Sprintf("%s %s -m set ! --match-set %s src -j DROP", outer, toHosts, setFabricHosts.Name))
	}
	linked := fmt.Sprintf("-m set --match-set %s src,src", setFabricLinks.Name)
	toNets := fmt.Sprintf("-m set --match-set %s dst", setFabricNets.Name)
	if b.Own.IsValid() {
		begun := fmt.Sprintf("-m set ! --match-set %s src,src -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP", setFabricLinks.Name)
		out = append(out,
			fmt.Sprintf("%s ! -i %s %s %s", from, hostDev, toNets, begun),
			fmt.Sprintf("! -i %s %s -m set --match-set %s src %s", hostDev, toNets, setFabricNets.Name, begun))
	}
	return []rules.Chain{
		{
			// Engines from 28 on drop here what comes to a container's address from
			// elsewhere than its own bridge.
			Table: "raw", Name: "SHOAL-FABRIC", From: []rules.Jump{{From: "PREROUTING", Match: to}},
			Rules: []string{fmt.Sprintf("%s %s -j ACCEPT", notFrom, linked)},
		},
		{
			// The outer packet inherits the mark of the inner one. Where routes
			// depend on marks, it would be routed into the tunnel again.
			Table: "mangle", Name: "SHOAL-FABRIC", From: []rules.Jump{{From: "POSTROUTING", Match: "-o " + tunnels}},
			Rules: []string{"-j MARK --set-xmark 0x0/0xffffffff"},
		},
		{
			Table: "nat", Name: "SHOAL-FABRIC", From: []rules.Jump{{From: "POSTROUTING"}},
			Rules: []string{
				// Containers see each other's own addresses: Docker would masquerade
				// what leaves its bridge.
				fmt.Sprintf("%s %s -j ACCEPT", from, toNets),
				// What the host itself sends into a tunnel comes back through it only
				// if sent from an address of this host's subnet.
				fmt.Sprintf("%s -o %s -m addrtype --src-type LOCAL -j MASQUERADE", notFrom, tunnels),
			},
		},
		{
			// Other bridges of this host stay apart from the containers', and those
			// from others': only what other hosts sent comes in, only what the own
			// bridge sent goes out. Another host itself, and its other bridges in its
			// name, may use tasks; the mesh's other containers are for containers.
			Table: "filter", Name: "SHOAL-FABRIC", From: []rules.Jump{{From: "FORWARD"}},
			Rules: []string{
				fmt.Sprintf("%s -m set --match-set %s dst -j SHOAL-RESTING", to, setResting.Name),
				fmt.Sprintf("%s -m set --match-set %s src -m set ! --match-set %s dst -m conntrack --ctstate NEW -j DROP", to, setFabricAddrs.Name, setLocal.Name),
				fmt.Sprintf("%s %s %s -j ACCEPT", notFrom, to, linked),
				fmt.Sprintf("%s %s %s -j ACCEPT", from, linked, toNets),
			},
		},
		{Table: "filter", Name: "SHOAL-FABRIC-IN", From: []rules.Jump{{From: "INPUT"}}, Rules: in},
		{
			// Nobody sends into a tunnel in a host's name but that host: what is forwarded
			// came in by the device that leads to it.
			Table: "raw", Name: "SHOAL-FABRIC-THROUGH", From: []rules.Jump{{From: "PREROUTING"}}, Rules: through,
		},
		{
			// What a container sends to another host in the name of a host or of another
			// container. That host could not tell: the engine masquerades what a container
			// sends into a tunnel with this host's address, and where reverse paths are
			// not checked a container may send from any address.
			Table: "filter", Name: "SHOAL-FABRIC-OUT", From: []rules.Jump{{From: "FORWARD"}}, Rules: out,
		},
		restingChain(),
		closedChain(b.Own),
	}
}

// outerOf matches the outer packets of a tunnel.
func outerOf(t lb.Tunnel) string {
	if t.Protocol == unix.IPPROTO_UDP {
		return fmt.Sprintf("-p udp --dport %d", t.Port)
	}
	return fmt.Sprintf("-p %d", t.Protocol)
}
