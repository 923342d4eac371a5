package agent

import (
	"context"
	"fmt"
	"net"
	"time"

	"shoal/model"
)

// listenAgain is how long an address that could not be had, or had no longer, is left alone.
const listenAgain = 3 * time.Second

// listening serves something beside the mesh on an address of this host, as a setting says, for as long as ctx lasts. The
// address may come later, as by DHCP, or somebody else may have the port: that is a problem, and tried again, and ends nothing.
func (a *Agent) listening(ctx context.Context, setting, addr string, serve func(context.Context, net.Listener) error) error {
	for ctx.Err() == nil {
		l, err := net.Listen("tcp", addr)
		if err == nil {
			a.problems.Set(setting, nil)
			err = serve(ctx, l)
			l.Close()
		}
		if ctx.Err() != nil {
			break
		}
		a.problems.Set(setting, []model.Problem{{Code: model.ListenFailed, Kind: "node", Object: a.config.Node,
			Reason: fmt.Sprintf("--%s %s is not served: %v; it is tried again every %v", setting, addr, err, listenAgain)}})
		select {
		case <-ctx.Done():
		case <-time.After(listenAgain):
		}
	}
	return nil
}
