package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"shoal/lb"
	"shoal/lb/host"
	"shoal/lb/ipvs"
	"shoal/lb/nft"
	"shoal/lb/socket"
)

// kind is a data plane that there is.
type kind struct {
	name      string
	available func(context.Context) error // why this kernel cannot do it; nil: it can
	open      func(lb.PlaneOptions) (lb.DataPlane, error)
	down      func(context.Context, lb.PlaneOptions) error
}

// kinds are the data planes, the one that auto prefers in front.
var kinds = []kind{
	{
		name: "ipvs", available: ipvs.Available,
		open: func(o lb.PlaneOptions) (lb.DataPlane, error) { return ipvs.New(ipvs.Options{PlaneOptions: o}) },
		down: func(ctx context.Context, o lb.PlaneOptions) error {
			return ipvs.Down(ctx, ipvs.Options{PlaneOptions: o})
		},
	},
	{
		name: "nftables", available: nft.Available, down: nft.Down,
		open: func(o lb.PlaneOptions) (lb.DataPlane, error) { return nft.New(o) },
	},
}

// DataPlanes are the names of the data planes that there are.
func DataPlanes() []string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

// planeAuto has the agent choose.
const planeAuto = "auto"

// checkPlane tells what is wrong with the name of a data plane.
func checkPlane(name string) error {
	if name == planeAuto {
		return nil
	}
	for _, k := range kinds {
		if k.name == name {
			return nil
		}
	}
	return fmt.Errorf("%q: use auto, ipvs or nftables", name)
}

// plane is the data plane that was chosen.
type plane struct {
	lb.DataPlane
	why    string // it was chosen
	others []kind // what a former run may have left behind

	led         *socket.Plane // DataPlane, where it leads connections in connect(); else nil
	socketGroup string        // whose connections are led in connect(), the folder of a control group; "": nobody's
	socketWhy   string        // why not, or what is not done for them
}

// openPlane opens the data plane that is named, or the first that this kernel
// can do.
func openPlane(ctx context.Context, name string, planes planesByName, o lb.PlaneOptions) (*plane, error) {
	chosen, why, err := choosePlane(name, nft.EngineUsesNftables(), func(k kind) error { return planes.available(ctx, k) })
	if err != nil {
		return nil, err
	}
	p := &plane{why: why}
	for _, k := range kinds {
		if k.name != chosen.name {
			p.others = append(p.others, k)
		}
	}
	if p.DataPlane, err = chosen.open(o); err != nil {
		return nil, err
	}
	return p, nil
}

// finalDrops is why IPVS is not the first choice with some engines.
const finalDrops = "the engine keeps its rules in nftables, past which those of iptables, which IPVS needs, do not lead"

// choosePlane decides which data plane is used, and why. With an engine that
// keeps its rules in nftables that is rather the one of that kind.
func choosePlane(name string, engineUsesNftables bool, available func(kind) error) (chosen kind, why string, err error) {
	var lacks []error
	order := kinds
	if engineUsesNftables {
		order = slices.Clone(kinds)
		slices.Reverse(order)
	}
	for _, k := range order {
		if name != planeAuto && k.name != name {
			continue
		}
		err := available(k)
		switch {
		case err != nil:
			lacks = append(lacks, fmt.Errorf("data plane %s: %w", k.name, err))
			continue
		case name != planeAuto:
			why = "--data-plane names it"
		case len(lacks) == 0 && engineUsesNftables:
			why = finalDrops
		case len(lacks) == 0:
			why = "this kernel has all that it needs"
		default:
			why = errors.Join(lacks...).Error()
		}
		return k, why, nil
	}
	return kind{}, "", errors.Join(lacks...)
}

// retire removes what other data planes have in the kernel. It is called once
// the chosen one carries everything, so that a switch costs no more than the
// connections that were open.
func (p *plane) retire(ctx context.Context, o lb.PlaneOptions, log *slog.Logger) {
	for _, k := range p.others {
		if err := k.down(ctx, o); err != nil {
			log.Warn("what another data plane left behind is still there; shoal down removes it", "plane", k.name, "error", err)
		}
	}
}

// planeOptions are the settings of data planes.
func (c *Config) planeOptions(log *slog.Logger) lb.PlaneOptions {
	return lb.PlaneOptions{
		Pool: c.Pool, DNS: c.DNS, DNSPeers: c.DNSPeers, StateDir: c.StateDir, Log: log.With("part", "plane"),
		Timeouts: lb.Timeouts{TCP: c.TCPTimeout, TCPFin: c.TCPFinTimeout, UDP: c.UDPTimeout},
	}
}

// downPlanes removes what any data plane has in the kernel.
func downPlanes(ctx context.Context, o lb.PlaneOptions) error {
	errs := []error{downSockets(o.Log), host.DropRoute()} // before what carries the rest, see there
	for _, k := range kinds {
		errs = append(errs, k.down(ctx, o))
	}
	return errors.Join(append(errs, host.Down(o.StateDir))...)
}
