//go:build e2e && stock

package conformance_test

import (
	"context"
	"errors"
	"testing"

	"shoal/lb"
	"shoal/lb/conformance"
	"shoal/lb/host"
	"shoal/lb/ipvs"
	"shoal/lb/nft"
)

// It takes a kernel that has what both planes need, as those of distributions
// have. User-Mode Linux has no nftables.
func TestSwitch(t *testing.T) {
	with := func(o lb.PlaneOptions) ipvs.Options {
		return ipvs.Options{PlaneOptions: o, Netns: o.StateDir + "-netns"}
	}
	conformance.Switch(t,
		conformance.Plane{
			New: func(o lb.PlaneOptions) (lb.DataPlane, error) { return ipvs.New(with(o)) },
			Down: func(ctx context.Context, o lb.PlaneOptions) error {
				return errors.Join(host.DropRoute(), ipvs.Down(ctx, with(o)), host.Down(o.StateDir))
			},
		},
		conformance.Plane{
			New:  func(o lb.PlaneOptions) (lb.DataPlane, error) { return nft.New(o) },
			Down: nft.Down,
		})
}
