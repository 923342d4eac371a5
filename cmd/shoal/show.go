package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"shoal/api"
	"shoal/model"
)

// show prints v as JSON where asked for, else by table.
func (o *options) show(w io.Writer, v any, table func(io.Writer)) error {
	if o.output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	table(tw)
	return tw.Flush()
}

func row(w io.Writer, cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		text[i] = cell(cmp.Or(fmt.Sprint(c), "-"))
	}
	fmt.Fprintln(w, strings.Join(text, "\t"))
}

// cell keeps text in its cell of a table: what somebody else has named can make no
// line of its own.
func cell(text string) string { return strings.NewReplacer("\n", "; ", "\t", " ").Replace(text) }

// age is how long ago t was, in the manner of docker ps.
func age(t time.Time) string {
	d := time.Since(t)
	switch {
	case t.IsZero():
		return "-"
	case d < 2*time.Minute:
		return strconv.Itoa(max(0, int(d.Seconds()))) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

// short is a container's ID in the length docker prints.
func short(id string) string { return id[:min(12, len(id))] }

func portsText(ports []model.Port) string {
	if len(ports) == 0 {
		return "all"
	}
	var all []string
	for _, p := range ports {
		s := fmt.Sprintf("%d", p.Port)
		if p.Target != p.Port {
			s += fmt.Sprintf(":%d", p.Target)
		}
		if p.Name != "" {
			s = p.Name + ":" + s
		}
		all = append(all, s+"/"+p.Protocol.String())
	}
	return strings.Join(all, ",")
}

func statusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Show the agent of this host at a glance",
		Example: "  sudo shoal status\n  sudo shoal status -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.client().Status(cmd.Context())
			if err != nil {
				return err
			}
			return o.show(cmd.OutOrStdout(), s, func(w io.Writer) {
				row(w, "node", fmt.Sprintf("%s (%s)", s.Node, s.Addr))
				row(w, "agent", fmt.Sprintf("%s, pid %d, up %s, kernel %s", s.Version, s.Pid, age(s.Started), s.Kernel))
				row(w, "data plane", fmt.Sprintf("%s: %s", s.Plane, s.PlaneWhy))
				row(w, "connect()", socketText(s))
				row(w, "engine", s.Engine)
				row(w, "store", storeText(s.Store))
				row(w, "mesh", fmt.Sprintf("zone %s, VIPs %s, DNS %s", s.Zone, s.Pool, s.DNS))
				row(w, "services", fmt.Sprintf("%d, with %d tasks, %d of them in rotation", s.Services, s.Tasks, s.Rotation))
				row(w, "problems", problemsText(s.Problems, s.Notices))
			})
		},
	}
}

func servicesCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "services",
		Aliases: []string{"ls"},
		Short:   "List the services",
		Example: "  sudo shoal services",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			services, err := o.client().Services(cmd.Context())
			if err != nil {
				return err
			}
			return o.show(cmd.OutOrStdout(), services, func(w io.Writer) {
				row(w, "SERVICE", "VIP", "MODE", "SCHEDULER", "PORTS", "IN ROTATION", "IDLE")
				for _, s := range services {
					vip, ports := s.VIP.String(), portsText(s.Ports)
					if !s.VIP.IsValid() {
						vip = "-"
					}
					if s.Tasks == 0 {
						ports = "-"
					}
					row(w, s.ID, vip, s.Mode, s.Scheduler, ports, fmt.Sprintf("%d/%d", s.InRotation, s.Tasks), age(s.IdleSince))
				}
			})
		},
	}
}

func tasksCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "tasks [SERVICE]",
		Short:   "List the tasks, of one service or of all",
		Example: "  sudo shoal tasks\n  sudo shoal tasks shop/web",
		Args:    atMostOne("SERVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			tasks, err := o.client().Tasks(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				id, err := model.ParseServiceID(args[0])
				if err != nil {
					return &usageError{err}
				}
				kept := []model.Task{}
				for _, t := range tasks {
					if t.Service == id {
						kept = append(kept, t)
					}
				}
				tasks = kept
			}
			return o.show(cmd.OutOrStdout(), tasks, func(w io.Writer) {
				row(w, "SERVICE", "CONTAINER", "NAME", "NODE", "ADDRESS", "STATE", "WEIGHT", "SINCE")
				for _, t := range tasks {
					row(w, t.Service, short(t.Container), t.Name, t.Node, t.Addr, t.State, t.Weight, age(t.Since))
				}
			})
		},
	}
}

func problemsCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "problems",
		Short:   "List what keeps single containers or services from working",
		Example: "  sudo shoal problems",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			problems, err := o.client().Problems(cmd.Context())
			if err != nil {
				return err
			}
			return o.show(cmd.OutOrStdout(), problems, func(w io.Writer) {
				if len(problems) == 0 {
					fmt.Fprintln(w, "no problems")
					return
				}
				row(w, "NODE", "CODE", "WHAT", "NAME", "SINCE", "REASON")
				for _, p := range problems {
					kind := p.Kind
					if p.Notice {
						kind += " (notice)"
					}
					row(w, p.Node, p.Code, kind, p.Object, age(p.Since), p.Reason)
				}
			})
		},
	}
}

func versionCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  shoal version",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.show(cmd.OutOrStdout(), map[string]string{"version": buildVersion()}, func(w io.Writer) {
				fmt.Fprintln(w, "shoal", buildVersion())
			})
		},
	}
}

// noArgs and atMostOne are cobra's, with exit code 2 and words of what to do.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Errorf("%s takes no %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())}
	}
	return nil
}

func atMostOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return &usageError{fmt.Errorf("%s takes one %s; see %s --help", cmd.CommandPath(), name, cmd.CommandPath())}
		}
		return nil
	}
}

func exactlyOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return &usageError{fmt.Errorf("%s wants one %s; see %s --help", cmd.CommandPath(), name, cmd.CommandPath())}
		}
		return nil
	}
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
