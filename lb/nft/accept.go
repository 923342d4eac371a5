package nft

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"shoal/kernel/rules"
	"shoal/lb"
)

// iptables are the few rules that stand in front of everybody's in the chains of
// iptables, where there is such a program: a drop there is final. What our own
// chains just before them have let pass, passes.
var iptables = []rules.Chain{
	{Table: "raw", Name: "SHOAL-PASS", From: []rules.Jump{{From: "PREROUTING"}}, Rules: []string{passRule}},
	{Table: "filter", Name: "SHOAL-PASS", From: []rules.Jump{{From: "INPUT"}, {From: "FORWARD"}, {From: "OUTPUT"}}, Rules: []string{passRule}},
}

var passRule = fmt.Sprintf("-m mark --mark %#x/%#x -j ACCEPT", passBit, passBit)

// host keeps what is the host's: rules of iptables.
func (p *Plane) host(ctx context.Context, now time.Time) {
	if _, err := exec.LookPath("iptables"); errors.Is(err, exec.ErrNotFound) {
		return
	}
	wrong, err := rules.Keep(ctx, iptables)
	if len(wrong) > 0 {
		p.log.Info("iptables rules written", "why", rules.Brief(wrong))
	}
	p.failing.Put(lb.Object{Part: "iptables"}, err, now)
}
