package diagnose

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/model"
)

// clientHere is the container of this host that sends, nil if it is none, or cannot
// be looked into.
func (in *Inspector) clientHere(ctx context.Context, s *model.Snapshot, q Question) *Looked {
	what := q.client
	if what == "" {
		for _, c := range s.Containers.Of(s.Self.Name) {
			if slices.Contains(c.Addrs, q.from) {
				what = c.ID
			}
		}
	}
	if what == "" {
		return nil
	}
	seen, err := in.Look(ctx, what)
	if err != nil {
		return nil
	}
	for _, c := range seen {
		if c.ID == what && c.Pid != 0 {
			return &Looked{Seen: c}
		}
	}
	return nil
}

// traceResolver tells what a container's own files and resolver make of a name,
// where shoal would answer with the service svc.
func (in *Inspector) traceResolver(ctx context.Context, e *walk, s *model.Snapshot, c *Looked, name string, svc *model.Service) {
	hosts, _ := kernel.ReadFileOf(c.Pid, "/etc/hosts", maxFile)
	if own := parseHosts(string(hosts), name); len(own) > 0 && !leads(svc, own, name) {
		e.fix("resolver", fmt.Sprintf("ask for %s, or take the name out of its /etc/hosts (--add-host, --hostname)", in.fullName(svc)),
			"%s has %s in its own /etc/hosts, as %s, and asks nobody", c.Name, name, addrText(own))
		return
	}
	b, err := kernel.ReadFileOf(c.Pid, "/etc/resolv.conf", maxFile)
	if err != nil {
		e.step("resolver", true, "the resolver of %s is not known: %v", c.Name, err)
		return
	}
	r := parseResolver(string(b))
	has := fmt.Sprintf("%s's /etc/resolv.conf: %s", c.Name, r)
	if len(r.servers) == 0 {
		e.fix("resolver", in.useDNS(), "%s: it has no DNS server", has)
		return
	}
	got := r.ask(ctx, c.Pid, name)
	full := in.fullName(svc)
	knows := func() said { return r.ask(ctx, c.Pid, full+".") } // a name that shoal alone has
	switch {
	case leads(svc, got.addrs, name):
		e.step("resolver", true, "%s asks %s: %s is %s\n%s", c.Name, in.serverText(got.by), got.name, addrText(got.addrs), has)
	case len(got.addrs) > 0 && got.by == dockerResolver && hasContainer(s, got.addrs):
		e.fix("resolver", fmt.Sprintf("ask for %s, or %s", full, in.searchFirst(knows())),
			"Docker's own resolver answers %s asking for %s: with %s, the containers of that name on its network of this host, and not with the service's address %s\n%s",
			c.Name, name, addrText(got.addrs), vipText(svc), has)
	case len(got.addrs) > 0:
		e.fix("resolver", fmt.Sprintf("ask for %s, or %s", full, in.searchFirst(knows())),
			"%s asks %s, which says that %s is %s: that is not the service's address %s\n%s", c.Name, in.serverText(got.by), got.name, addrText(got.addrs), vipText(svc), has)
	default:
		if there := knows(); leads(svc, there.addrs, full) {
			e.fix("resolver", fmt.Sprintf("ask for %s, or start it with --dns-search %s --dns-opt ndots:1", full, in.Zone),
				"%s asks shoal, by %s, but not for a name that it has: %s looks for %s only\n%s", c.Name, there.by, c.Name, strings.Join(r.candidates(name), ", "), has)
			return
		}
		why := got.rcode
		if got.err != nil {
			why = "no answer: " + got.err.Error()
		}
		if slices.Contains(r.servers, in.DNS.Addr()) {
			e.fix("resolver", "see what else listens on port 53 of its host, and what a firewall there drops: shoal problems", "%s asks shoal at %s, and gets none of its names (%s)\n%s", c.Name, in.DNS.Addr(), why, has)
			return
		}
		by := in.serverText(r.servers[0])
		if r.servers[0] == dockerResolver {
			by += ", which passes on what it does not know to " + orElse(strings.Join(c.DNS, ", "), "the DNS servers of the engine (daemon.json) or of the host")
		}
		e.fix("resolver", in.useDNS(), "%s does not ask shoal: it asks %s (%s: %s)\n%s", c.Name, by, orElse(got.name, name), why, has)
	}
}

func (r resolver) String() string {
	text := "no nameserver"
	if len(r.servers) > 0 {
		text = "nameserver " + addrText(r.servers)
	}
	if len(r.search) > 0 {
		text += ", search " + oneLine(strings.Join(r.search, " "))
	}
	return fmt.Sprintf("%s, ndots:%d", text, r.ndots)
}

// useDNS is how a container is started that asks shoal.
func (in *Inspector) useDNS() string {
	return fmt.Sprintf("start it with --dns %s --dns-search %s --dns-opt ndots:1, or put what shoal docker-config prints into daemon.json, restart the engine, and make the container anew", in.DNS.Addr(), in.Zone)
}

// searchFirst has shoal's names come before others.
func (in *Inspector) searchFirst(knows said) string {
	if len(knows.addrs) == 0 {
		return in.useDNS()
	}
	return fmt.Sprintf("start it with --dns-search %s --dns-opt ndots:1", in.Zone)
}

func (in *Inspector) serverText(a netip.Addr) string {
	switch a {
	case in.DNS.Addr():
		return "shoal at " + a.String()
	case dockerResolver:
		return "Docker's own resolver at " + a.String()
	}
	return a.String()
}

// fullName is a service's name that means the same to everybody.
func (in *Inspector) fullName(svc *model.Service) string {
	name := svc.ID.Name + "." + in.Zone
	if svc.ID.Stack != model.DefaultStack {
		name = svc.ID.Name + "." + svc.ID.Stack + "." + in.Zone
	}
	return name
}

// leads tells whether what a name is answered with leads to a service: its VIP, or
// where the name asks for them, tasks of it.
func leads(svc *model.Service, addrs []netip.Addr, name string) bool {
	vip, tasks := reached(svc, addrs)
	direct := svc.Spec.Mode == model.ModeDNSRR || strings.HasPrefix(name, "tasks.") || strings.HasPrefix(name, "_")
	return vip || direct && len(tasks) > 0
}

func vipText(svc *model.Service) string {
	if svc.VIP.IsValid() {
		return svc.VIP.String()
	}
	return "(it has none: mode dnsrr)"
}

func hasContainer(s *model.Snapshot, addrs []netip.Addr) bool {
	return slices.ContainsFunc(addrs, s.HasContainer)
}

func addrText(addrs []netip.Addr) string {
	var all []string
	for _, a := range addrs[:min(len(addrs), 8)] {
		all = append(all, a.String())
	}
	return strings.Join(all, ", ")
}

// traceLeaving tells how a container's own kernel routes to an address, and whether
// that leads to this host.
func (in *Inspector) traceLeaving(e *walk, s *model.Snapshot, c *Looked, to netip.Addr) (leads bool) {
	if c.HostNetwork || !to.IsValid() {
		return true
	}
	var routes []netlink.Route
	v4 := false
	err := kernel.InNetwork(c.Pid, func() (err error) {
		if addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4); err == nil {
			for _, a := range addrs {
				v4 = v4 || !a.IP.IsLoopback()
			}
		}
		routes, err = netlink.RouteGet(to.AsSlice())
		return err
	})
	instead := "start it anew with --network " + in.MeshNetwork
	switch {
	case !v4 && (err == nil || isUnreachable(err)):
		e.fix("client", instead+", or another network with IPv4", "%s has no IPv4 address: names, VIPs and published ports are IPv4 alone", c.Name)
	case isUnreachable(err) || err == nil && len(routes) == 0:
		e.fix("client", instead, "%s has no route to %s: its network (%s) is an internal one, or has no gateway", c.Name, to, strings.Join(c.Networks, ", "))
	case err != nil:
		e.step("client", true, "the routes of %s are not known: %v", c.Name, err)
		return true
	default:
		via := addrFrom(routes[0].Gw)
		text := fmt.Sprintf("%s sends to %s", c.Name, to)
		if via.IsValid() {
			text += " via " + via.String()
		}
		ours := slices.ContainsFunc(s.Networks, func(n model.Network) bool {
			return slices.Contains(n.Gateway, via) || slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(to) })
		})
		if via.IsValid() && !ours {
			e.fix("client", "put it on a bridge network, as "+in.MeshNetwork, "%s, which is no bridge of this host: its network (%s) goes past this host, which so leads nothing", text, strings.Join(c.Networks, ", "))
			return false
		}
		e.step("client", true, "%s, on %s", text, strings.Join(c.Networks, ", "))
		return true
	}
	return false
}

func isUnreachable(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH)
}

func addrFrom(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a.Unmap()
}
