//go:build e2e

package nft

import (
	"context"
	"errors"
	"testing"

	"shoal/lb"
	"shoal/lb/conformance"
	"shoal/lb/host"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, conformance.Plane{
		New: func(o lb.PlaneOptions) (lb.DataPlane, error) { return New(o) },
		Down: func(ctx context.Context, o lb.PlaneOptions) error {
			return errors.Join(host.DropRoute(), Down(ctx, o), host.Down(o.StateDir))
		},
		Nftables: AcceptMark,
		Breaks: []conformance.Break{
			conformance.Command("the table deleted", "nft delete table ip shoal", true),
			conformance.Command("the table's rules deleted", "nft flush table ip shoal", true),
			conformance.Command("a rule deleted", "nft delete rule ip shoal "+someRule, true),
			conformance.Command("a rule of others", "set -- "+someRule+"; nft insert rule ip shoal $1 drop", true),
			conformance.Command("services deleted", "nft flush map ip shoal services", true),
			conformance.Command("backends deleted", "nft flush map ip shoal slots", true),
			conformance.Command("a VIP of others", "nft add element ip shoal vips { 10.96.9.9 }", true),
			conformance.Command("the route deleted", "ip route del local 10.96.0.0/16 dev lo", true),
		},
	})
}

// someRule prints a chain and the handle of its first rule.
const someRule = `$(nft -a list table ip shoal | awk '$1 == "chain" { c = $2; next } c && / # handle / && !/type .* hook/ { print c, "handle", $NF; exit }')`
