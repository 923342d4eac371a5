package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"

	"shoal/cluster"
	"shoal/fabric"
	"shoal/preflight"
	"shoal/store"
)

// processName begins what this program's processes are called.
const processName = "shoal ("

// planesByName tell why this kernel cannot do a data plane; each is asked once.
type planesByName map[string]error

func (p planesByName) available(ctx context.Context, k kind) error {
	err, asked := p[k.name]
	if !asked {
		err = k.available(ctx)
		p[k.name] = err
	}
	return err
}

// Check makes the checks that an agent with these settings makes when it
// starts, and starts none. The error is a [ConfigError].
func Check(ctx context.Context, c Config) ([]preflight.Finding, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	_, err := newAddrWatch(&c)
	return check(ctx, &c, err, planesByName{}), nil
}

// check looks at the host. Noaddr is why no address of it is known.
func check(ctx context.Context, c *Config, noaddr error, planes planesByName) []preflight.Finding {
	o := preflight.Options{
		Docker: c.Docker, Tell: c.TellManagers, Own: processName, DNS: netip.AddrPortFrom(c.DNS, 53),
		Listen: []netip.AddrPort{netip.AddrPortFrom(c.DNS, 53)},
	}
	for _, k := range kinds {
		if c.DataPlane == planeAuto || c.DataPlane == k.name {
			o.Planes = append(o.Planes, preflight.Candidate{Name: k.name, Available: func(ctx context.Context) error { return planes.available(ctx, k) }})
		}
	}
	ports := []uint16{cluster.DefaultPort, cluster.DefaultGossipPort}
	if len(c.Etcd) == 0 {
		ports = append(ports, store.ClientPort, store.PeerPort)
	}
	for _, port := range ports {
		if c.Advertise.IsValid() {
			o.Listen = append(o.Listen, netip.AddrPortFrom(c.Advertise, port))
		}
	}
	f := preflight.Gather(ctx, o)
	_, f.Unled = socketGroup(c)
	f.Address, f.VIPs, f.Containers = noaddr, c.Pool, c.SubnetPool
	for _, look := range []func() (overlap, err error){
		func() (overlap, err error) { return checkOverlap(c.Pool) },
		func() (overlap, err error) { return fabric.CheckPool(c.SubnetPool, meshBridge) },
	} {
		overlap, err := look()
		if overlap != nil {
			f.Overlap = append(f.Overlap, overlap)
		}
		if err != nil {
			f.OverlapUnknown = append(f.OverlapUnknown, err)
		}
	}
	return preflight.Judge(f)
}

// preflightOf makes the checks at the start of an agent: it logs what is not as
// it should be, and refuses what cannot work, all of it at once.
func preflightOf(ctx context.Context, c *Config, noaddr error, planes planesByName, log *slog.Logger) error {
	findings := check(ctx, c, noaddr, planes)
	for _, f := range findings {
		if f.Level == preflight.Warning {
			log.Warn("this host", "check", f.Check, "found", f.Found, "advice", f.Do)
		}
	}
	err := preflight.Refusal(findings)
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	err = errors.Join(err, errors.New("shoal check tells more"))
	if noaddr != nil {
		return err // the address may come, as by DHCP: another start may do
	}
	return &ConfigError{err}
}
