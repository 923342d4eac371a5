package ipvs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"shoal/internal/statefile"
	"shoal/kernel/ipvs"
	"shoal/kernel/rules"
	"shoal/kernel/sysctl"
	"shoal/lb"
	"shoal/lb/host"
	"shoal/model"
)

// param is a kernel parameter and the value that the plane needs.
type param struct{ name, value string }

// ipvsParams are those of IPVS, on the host and in the sandbox.
var ipvsParams = []param{
	{"net.ipv4.vs.conntrack", "1"},                 // replies are known as such by filter rules, hairpin is masqueraded
	{"net.ipv4.vs.expire_nodest_conn", "1"},        // connections of a deleted destination end at once
	{"net.ipv4.vs.expire_quiescent_template", "1"}, // affinity does not outlive a destination of weight 0
}

// sandboxParams are others of the sandbox.
var sandboxParams = []param{
	{"net.ipv4.ip_forward", "1"},
	{sysctl.IPv4("all", "rp_filter"), "0"},
	{sysctl.IPv4(sandboxDev, "rp_filter"), "0"},
	{sysctl.IPv4("all", "send_redirects"), "0"}, // everything leaves by the device it came in by
	{sysctl.IPv4(sandboxDev, "send_redirects"), "0"},
}

// ensure keeps what all frontends stand on: parameters, timeouts, rules and
// routes. A part that fails is a failure by itself.
func (p *Plane) ensure(ctx context.Context, now time.Time) {
	if p.base == nil {
		return
	}
	dir := p.opts.StateDir
	part := func(name string, err error) { p.failures.Put(lb.Object{Part: name}, err, now) }
	part("br_netfilter", model.KernelIncomplete.Of(host.Netfilter(ctx)))
	part("sysctl net.ipv4.ip_forward", host.Forward(dir))
	for _, param := range ipvsParams {
		part("sysctl "+param.name, host.Sysctls(dir).Set(param.name, param.value))
	}
	part("IPVS timeouts", p.keepTimeouts())
	if p.box.read {
		part("sandbox's iptables", p.sandbox.do(func() error { return p.keepRules(ctx, sandboxChains()) }))
		part("sysctl route_localnet", host.RouteLocalnet(dir, hostDev))
		part("sysctl rp_filter of "+hostDev, host.Sysctls(dir).Loosen(hostDev))
		self := p.base.Self.Addr
		part("route to the sandbox", p.standing.Made("sandbox", ensureReturn(self), func() error { return ensureReturn(self) }))
	}
	part("iptables between hosts", p.repairBetween(ctx))
	err := p.keepRules(ctx, p.chains())
	part("iptables", err)
	if err != nil {
		p.standing.Forget()
		return // without rules, the route would open every listener of the host
	}
	part("route", p.standing.Route(p.opts.Pool, p.base.Self.Addr))
}

// ensureBridges keeps what tasks of this host need of their bridges.
func (p *Plane) ensureBridges(now time.Time) {
	if p.base != nil {
		p.failures.Put(lb.Object{Part: "bridges"}, host.Bridges(p.opts.StateDir, p.base, p.endpoints), now)
	}
	p.bridges = false
}

func (p *Plane) keepRules(ctx context.Context, want []rules.Chain) error {
	wrong, err := rules.Keep(ctx, want)
	if len(wrong) > 0 {
		p.log.Info("iptables rules written", "why", rules.Brief(wrong))
	}
	return err
}

// keepTimeouts sets IPVS's idle timeouts where they differ, after keeping what
// they were.
func (p *Plane) keepTimeouts() error {
	want := ipvs.Timeouts(p.opts.Timeouts)
	have, err := p.host.table.ipvs.Timeouts()
	if err != nil || have == want {
		return err
	}
	file := p.opts.timeoutsFile()
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if err := statefile.Save(file, have); err != nil {
			return err
		}
	}
	return p.host.table.ipvs.SetTimeouts(want)
}

// openBox finds the sandbox or makes it, with its link and parameters. What
// was known of the kernel in another one is forgotten.
func (p *Plane) openBox(ctx context.Context) error {
	err := p.tryOpenBox(ctx)
	if err != nil {
		p.box.unknown()
	}
	return err
}

func (p *Plane) tryOpenBox(ctx context.Context) error {
	made, err := p.sandbox.open()
	if err != nil {
		return err
	}
	if made {
		p.closeBox()
	}
	if err := p.sandbox.connect(); err != nil {
		return err
	}
	return p.sandbox.do(func() (err error) {
		if p.box.table.ipvs == nil {
			if p.box.table.ipvs, err = ipvs.New(ctx); err != nil {
				return err
			}
		}
		params := sysctl.New(p.opts.sandboxParamsFile())
		for _, list := range [][]param{sandboxParams, ipvsParams} {
			for _, param := range list {
				if err := params.Set(param.name, param.value); err != nil {
					return fmt.Errorf("in the sandbox: %w", err)
				}
			}
		}
		want := ipvs.Timeouts(p.opts.Timeouts)
		have, err := p.box.table.ipvs.Timeouts()
		if err != nil || have == want {
			return err
		}
		return p.box.table.ipvs.SetTimeouts(want)
	})
}

// closeBox closes the handle of the virtual services in the sandbox.
func (p *Plane) closeBox() {
	if p.box.table.ipvs != nil {
		p.box.table.ipvs.Close()
		p.box.table.ipvs = nil
	}
	p.box.unknown()
}
