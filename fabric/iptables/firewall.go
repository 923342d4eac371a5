package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"shoal/fabric"
	"shoal/kernel/ipset"
	"shoal/kernel/rules"
)

// Firewall is one by iptables. It keeps nothing but what is in the kernel.
type Firewall struct{ log *slog.Logger }

var _ fabric.Firewall = (*Firewall)(nil)

// New makes a Firewall. It changes nothing yet.
func New(log *slog.Logger) *Firewall { return &Firewall{log} }

// Between implements [fabric.Firewall]. What is let past has its entries before
// there are rules, and loses them after that.
func (f *Firewall) Between(ctx context.Context, b fabric.Between) (changed bool, err error) {
	var errs []error
	drop := map[string]entries{}
	for _, s := range sets {
		have, err := ipset.List(s.Name)
		if errors.Is(err, ipset.ErrNotExist) {
			changed = true
			err = create(s)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		put, old := diff(wanted(s, b), have)
		drop[s.Name] = old
		changed = changed || len(put)+len(old) > 0
		errs = append(errs, failed(ipset.Put(s, put)))
	}
	wrong, err := rules.Keep(ctx, chains(b))
	if len(wrong) > 0 {
		f.log.Info("iptables rules written", "why", rules.Brief(wrong))
	}
	errs = append(errs, err)
	for _, s := range sets {
		errs = append(errs, failed(ipset.Remove(s, drop[s.Name])))
	}
	return changed || len(wrong) > 0, errors.Join(errs...)
}

// Down removes the rules and sets of any Firewall. Nothing there is not an
// error.
func Down(ctx context.Context) error {
	errs := []error{rules.Remove(ctx, chain, chainIn)}
	for _, s := range sets {
		errs = append(errs, ipset.Destroy(s.Name))
	}
	return errors.Join(errs...)
}

type entries = map[ipset.Entry]uint32

func create(s ipset.Set) error {
	if err := ipset.Create(s); err != nil {
		return fmt.Errorf("%w; run `modprobe ip_set` on the host, or install the package with the kernel's extra modules", err)
	}
	return nil
}

// wanted are the entries of a set.
func wanted(s ipset.Set, b fabric.Between) entries {
	es := entries{}
	switch s {
	case setNets:
		for _, n := range b.Nets {
			es[ipset.Entry{Net: n.Masked()}] = 0
		}
	case setHosts:
		for _, h := range b.Hosts {
			es[ipset.Addr(h)] = 0
		}
	case setLinks:
		for _, l := range b.Links {
			es[ipset.NetIface(l.Net, l.Device)] = 0
		}
	}
	return es
}

// diff are the entries to put in and those to take out.
func diff(want, have entries) (put, drop entries) {
	put, drop = entries{}, entries{}
	for e := range want {
		if _, has := have[e]; !has {
			put[e] = 0
		}
	}
	for e := range have {
		if _, wanted := want[e]; !wanted {
			drop[e] = 0
		}
	}
	return put, drop
}

func failed(errs map[ipset.Entry]error) error {
	var all []error
	for e, err := range errs {
		all = append(all, fmt.Errorf("entry %s: %w", e.Net, err))
	}
	return errors.Join(all...)
}
