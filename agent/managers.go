package agent

import (
	"context"
	"log/slog"
	"strings"

	"golang.org/x/sync/errgroup"

	"shoal/managers"
)

// hostRoot is the root of the host's file system.
const hostRoot = "/"

// tellManagers has the managers of this host's network leave alone what is
// shoal's, for as long as ctx lasts.
func tellManagers(ctx context.Context, g *errgroup.Group, log *slog.Logger) {
	log = log.With("part", "managers")
	switch wrote, err := managers.Networkd(hostRoot); {
	case err != nil:
		log.Warn("systemd-networkd may remove routes when it is restarted", "error", err)
	case wrote:
		log.Info("systemd-networkd is told to keep routes and routing rules of others, from its next start on", "file", hostRoot+managers.DropIn)
	}
	g.Go(func() error {
		managers.NetworkManager(ctx, ownDevice, log)
		return nil
	})
}

// ownDevice tells whether a device is shoal's.
func ownDevice(name string) bool { return strings.HasPrefix(name, "shoal") }
