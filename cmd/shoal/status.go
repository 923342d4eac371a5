package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shoal/api"
	"shoal/model"
)

// How shoal status ends, besides with 0.
const (
	exitDegraded = 1
	exitUnknown  = 2
)

func statusCommand(o *options) *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether the cluster is healthy, and the agent of this host",
		Long: `Show the agent of this host at a glance, and whether the cluster is healthy: it
is degraded while any host has a problem (see shoal problems). Notices do not
count.

Exits with 0 if the cluster is healthy, with 1 if it is degraded, and with 2 if
that is not known, because this host's agent does not answer. With --wait, it
waits until the cluster is healthy, and prints then.`,
		Example: "  sudo shoal status\n  sudo shoal status --wait --timeout 1m && ./deploy",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("timeout") && !wait {
				return &usageError{fmt.Errorf("--timeout needs --wait")}
			}
			var v *statusView
			var err error
			if wait {
				v, err = awaitHealthy(cmd.Context(), o.client(), timeout, cmd.ErrOrStderr())
			} else {
				v, err = healthOf(cmd.Context(), o.client())
			}
			if err != nil {
				return &exitError{exitUnknown, err.Error()}
			}
			if err := o.show(cmd.OutOrStdout(), v, func(w io.Writer) { v.print(w) }); err != nil {
				return err
			}
			if v.Health != model.Healthy {
				return &exitError{exitDegraded, "the cluster is degraded: see shoal problems"}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the cluster is healthy")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "with --wait: give up after this long")
	return cmd
}

// healthOf asks the agent how it fares, and what problems the cluster has.
func healthOf(ctx context.Context, c *api.Client) (*statusView, error) {
	s, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	problems, err := c.ClusterProblems(ctx)
	if err != nil {
		return nil, err
	}
	h := model.HealthOf(problems)
	v := &statusView{Status: s, Health: h.State, DegradedBy: h.DegradedBy}
	v.Problems, v.Notices = h.Problems, h.Notices
	return v, nil
}

// What passes between two looks at the cluster's health: so much at least, and so much
// for each host, as all of them are asked.
const (
	healthPause     = time.Second
	healthPauseEach = 20 * time.Millisecond
)

// awaitHealthy looks until the cluster is healthy, or until timeout has passed; then it
// returns what it saw last. It tells on w what it waits for, when that changes.
func awaitHealthy(ctx context.Context, c *api.Client, timeout time.Duration, w io.Writer) (*statusView, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c.Waiting = nil // what is waited for is told here
	var last *statusView
	lastErr := fmt.Errorf("the agent did not answer within %s", timeout)
	for told := ""; ; {
		v, err := healthOf(ctx, c)
		if ctx.Err() != nil { // what the end of the time interrupted says nothing
			return last, lastErr
		}
		last, lastErr = v, err
		if err == nil && v.Health == model.Healthy {
			return v, nil
		}
		if now := v.waitsFor(err); now != told {
			told = now
			fmt.Fprintln(w, "waiting:", now)
		}
		pause := healthPause
		if v != nil {
			pause = max(pause, time.Duration(len(v.Nodes))*healthPauseEach)
		}
		select {
		case <-ctx.Done():
			return last, lastErr
		case <-time.After(pause):
		}
	}
}

// waitsFor is what keeps the cluster from being healthy, in one line.
func (v *statusView) waitsFor(err error) string {
	if err != nil {
		return cell(err.Error())
	}
	return strings.Join(v.reasons(), "; ")
}

// mostReasons is how many problems shoal status names.
const mostReasons = 5

// reasons name the problems that degrade the cluster, the oldest first.
func (v *statusView) reasons() (lines []string) {
	groups := model.GroupProblems(v.DegradedBy)
	for _, g := range groups[:min(len(groups), mostReasons)] {
		lines = append(lines, cell(fmt.Sprintf("%s: %s %s on %s", g.Code, g.Kind, g.Object, someNames(g.Nodes))))
	}
	if more := len(groups) - mostReasons; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return lines
}

func (v *statusView) print(w io.Writer) {
	row(w, "node", fmt.Sprintf("%s (%s)", v.Node, v.Addr))
	row(w, "agent", fmt.Sprintf("%s, pid %d, up %s, kernel %s", v.Version, v.Pid, age(v.Started), v.Kernel))
	row(w, "data plane", fmt.Sprintf("%s: %s", v.Plane, v.PlaneWhy))
	row(w, "connect()", socketText(v.Status))
	row(w, "engine", v.Engine)
	row(w, "store", storeText(v.Store))
	row(w, "mesh", fmt.Sprintf("zone %s, VIPs %s, DNS %s", v.Zone, v.Pool, v.DNS))
	row(w, "hosts", hostsText(v.Status))
	row(w, "services", fmt.Sprintf("%d, with %d tasks, %d of them in rotation", v.Services, v.Tasks, v.Rotation))
	row(w, "problems", problemsText(v.Problems, v.Notices))
	row(w, "health", v.Health)
	for _, line := range v.reasons() {
		fmt.Fprintln(w, "\t"+line)
	}
}

// hostsText tells how many hosts there are, and which are dead.
func hostsText(s api.Status) string {
	text := strconv.Itoa(len(s.Nodes))
	if len(s.Dead) > 0 {
		text += ", dead: " + someNames(s.Dead)
	}
	return text
}

// problemsText tells how many problems and notices there are.
func problemsText(problems, notices int) string {
	text := "none"
	if problems > 0 {
		text = strconv.Itoa(problems)
	}
	switch notices {
	case 0:
	case 1:
		text += ", 1 notice"
	default:
		text += fmt.Sprintf(", %d notices", notices)
	}
	if problems+notices > 0 {
		text += ", see shoal problems"
	}
	return text
}

// storeText is the catalog's store in one line.
func storeText(s api.StoreStatus) string {
	kind := "etcd at " + strings.Join(s.Endpoints, ", ")
	if s.Embedded {
		kind = "embedded etcd"
	}
	text := fmt.Sprintf("%s %s, revision %d, %d KiB", kind, s.Version, s.Revision, s.DBSize>>10)
	switch {
	case s.Waiting != "":
		text = kind + ", waiting for " + s.Waiting
	case s.FromCache:
		text = kind + ", away: going by what was known when it was last there"
	case !s.Connected:
		text = kind + ", away"
	}
	if s.LastError != "" {
		text += " (" + s.LastError + ")"
	}
	if len(s.Listed) > 0 {
		text += "; these hosts tell by themselves what they have: " + strings.Join(s.Listed, ", ")
	}
	return text
}

// socketText tells whether connections are led in connect().
func socketText(s api.Status) string {
	if s.SocketGroup == "" {
		return "leads nobody to a task: " + s.SocketWhy
	}
	text := "leads clients of VIPs to a task, in the control group " + s.SocketGroup
	if s.SocketWhy != "" {
		text += "; " + s.SocketWhy
	}
	return text
}
