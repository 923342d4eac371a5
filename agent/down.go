package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"shoal/api"
	"shoal/fabric"
	"shoal/firewall/firewalld"
	"shoal/ingress"
	"shoal/managers"
)

// Down removes all that shoal made on this host's kernel. It refuses while
// an agent runs, which would put it back.
func Down(ctx context.Context, c Config, log *slog.Logger) error {
	if os.Geteuid() != 0 {
		return errors.New("shoal down writes to the kernel's network tables and needs root: run it with sudo")
	}
	if err := c.Check(); err != nil {
		return err
	}
	s, err := api.NewClient(api.Socket(c.RunDir)).Status(ctx)
	if err == nil {
		return fmt.Errorf("the agent (pid %d) still runs on this host and would put all of it back: stop it first", s.Pid)
	}
	if errors.As(err, new(*api.StartingError)) {
		return fmt.Errorf("%w; it would put all of it back: stop it first", err)
	}
	return errors.Join(
		managers.Down(hostRoot),
		ingress.Down(ctx, c.ingress(log)),
		fabric.Down(),
		downPlanes(ctx, c.planeOptions(log)),
		firewalld.Down(ctx, c.StateDir),
		removeNetwork(ctx, c, log),
	)
}
