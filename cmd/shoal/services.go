package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shoal/api"
	"shoal/model"
)

const whichService = `A service is named as for shoal explain: web, web.shop or shop/web.`

func servicesCommand(o *options) *cobra.Command {
	return listCommand(o, &cobra.Command{
		Use:   "services [SERVICE]",
		Short: "List the services, or one",
		Long: `List the services, or one.

` + whichService,
		Args:    atMostOne("SERVICE"),
		Example: "  sudo shoal services\n  sudo shoal services web\n  sudo shoal services -o go-template='{{.id}} {{.vip}}'",
	}, listing[api.ServiceView]{
		fetch: func(cmd *cobra.Command, args []string) ([]api.ServiceView, error) {
			if len(args) > 0 {
				return o.client().ServicesNamed(cmd.Context(), args[0])
			}
			return o.client().Services(cmd.Context())
		},
		columns: []column[api.ServiceView]{
			col("SERVICE", func(s api.ServiceView) any { return s.ID }),
			col("VIP", func(s api.ServiceView) any { return addrText(s.VIP) }),
			col("MODE", func(s api.ServiceView) any { return s.Mode }),
			col("SCHEDULER", func(s api.ServiceView) any { return s.Scheduler }),
			col("PORTS", func(s api.ServiceView) any {
				if s.Tasks == 0 {
					return "-"
				}
				return portsText(s.Ports)
			}),
			col("IN ROTATION", func(s api.ServiceView) any {
				return painted{fmt.Sprintf("%d/%d", s.InRotation, s.Tasks), rotationTone(s.InRotation, s.Tasks)}
			}),
			ageCol("IDLE", func(s api.ServiceView) time.Time { return s.IdleSince }),
		},
	})
}

func rotationTone(in, all int) tone {
	switch {
	case all == 0:
		return faint
	case in == 0:
		return bad
	case in < all:
		return wary
	}
	return good
}

func serviceCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Manage the services",
	}
	cmd.AddCommand(ls(servicesCommand(o)), &cobra.Command{
		Use:   "rm SERVICE",
		Short: "Forget a service that has no tasks, and give its VIP back",
		Long: `Forget a service that has no tasks, and give its VIP back.

` + whichService,
		Example: "  sudo shoal service rm shop/web",
		Args:    exactlyOne("SERVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			gone, err := o.client().RemoveService(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return o.removed(cmd.OutOrStdout(), gone.ID)
		},
	})
	return cmd
}

// addrText is an address; "": there is none.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

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
