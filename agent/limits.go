package agent

import (
	"context"
	"log/slog"
	"time"

	"shoal/lb/host"
	"shoal/model"
)

const (
	limitsPeriod = 10 * time.Second // between two looks at the number of tracked connections
	nearlyFull   = 80               // percent of the limit
)

// watchLimits raises the limits of the kernel's tables of connections, once
// there are such tables, and tells when that of connection tracking is nearly
// full.
func (a *Agent) watchLimits(ctx context.Context) error {
	raised := false
	tick := time.NewTicker(limitsPeriod)
	defer tick.Stop()
	for {
		entries, limit, err := host.Tracked()
		if err == nil && limit > 0 && !raised {
			raised = true // what is lowered by somebody later, stays
			raiseLimits(a.config.StateDir, a.log)
			entries, limit, err = host.Tracked()
		}
		a.problems.Set("limits", trackingProblems(entries, limit, err))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func raiseLimits(dir string, log *slog.Logger) {
	want, err := host.HostLimits()
	var done []string
	if err == nil {
		done, err = host.Raise(dir, want)
	}
	if len(done) > 0 {
		log.Info("limits of connection tracking are raised", "what", done)
	}
	if err != nil {
		log.Warn("raise the limits of connection tracking", "error", err)
	}
	if have := host.IPVSBits(); have > 0 && have < want.Bits {
		log.Info("ip_vs was loaded with a small table of connections: `options ip_vs conn_tab_bits=…` in /etc/modprobe.d has it larger from the next boot on", "bits", have, "advised", want.Bits)
	}
}

// trackingProblems judges the number of tracked connections. The text has no
// number that changes, so that it is one problem for as long as it lasts.
func trackingProblems(entries, limit int, err error) []model.Problem {
	p := model.Problem{Kind: "kernel", Object: "connection tracking"}
	switch {
	case err != nil:
		p.Code, p.Reason = model.KernelReadFailed, err.Error()
	case limit > 0 && int64(entries)*100 >= int64(limit)*nearlyFull:
		p.Code = model.ConntrackFull
		p.Reason = "the kernel tracks more than 80 % of the connections that it can; when its table is full, it drops new ones: " +
			"raise the limit (sysctl net.netfilter.nf_conntrack_max; shoal_conntrack_entries and shoal_conntrack_entries_limit in /metrics tell both), or find out who opens so many (conntrack -L)"
	default:
		return nil
	}
	return []model.Problem{p}
}
