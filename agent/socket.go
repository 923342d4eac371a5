package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"shoal/kernel/cgroups"
	"shoal/kernel/sockets"
	"shoal/lb"
	"shoal/lb/socket"
)

// The values of --socket-balancing.
const (
	socketAuto = "auto"
	socketOff  = "off"
)

// socketPins is where the programs and maps are that balance in connect().
const socketPins = "/sys/fs/bpf/shoal"

// checkSocket reports a bad --socket-balancing or --socket-cgroup.
func checkSocket(c *Config) error {
	if c.SocketBalancing != socketAuto && c.SocketBalancing != socketOff {
		return badSetting("--socket-balancing %q: use auto, to balance in connect() where the kernel can, or off", c.SocketBalancing)
	}
	if c.SocketCgroup == "" || c.SocketBalancing == socketOff {
		return nil
	}
	if !filepath.IsAbs(c.SocketCgroup) {
		return badSetting("--socket-cgroup %q: use an absolute path", c.SocketCgroup)
	}
	if err := cgroups.Check(c.SocketCgroup); err != nil {
		return badSetting("--socket-cgroup: %w", err)
	}
	return nil
}

// errSocketOff is why nothing balances in connect() where that was asked for.
var errSocketOff = errors.New("--socket-balancing says so")

// leadSockets has connections to VIPs led in connect(), in front of the plane, where the
// kernel and its control groups allow it. Where not, or no more, nothing of it is left,
// and the plane carries everything as ever.
func (p *plane) leadSockets(c *Config, o lb.PlaneOptions, log *slog.Logger) error {
	group, err := socketGroup(c)
	if err == nil {
		var led *socket.Plane
		o.Log = log.With("part", "socket")
		if led, err = socket.New(socket.Options{PlaneOptions: o, Next: p.DataPlane, Cgroup: group, Pins: socketPins, Destroy: sockets.Destroy}); err == nil {
			p.DataPlane, p.socketGroup = led, group
			log.Info("connections to VIPs are led in connect()", "cgroup", group)
			return nil
		}
	}
	p.socketWhy = err.Error()
	log.Info("connections to VIPs are not led in connect()", "why", err)
	if err := downSockets(); err != nil {
		return fmt.Errorf("remove what leads connections in connect(): %w", err)
	}
	return nil
}

// socketGroup is the folder of the control group whose processes are led, or why there
// is none.
func socketGroup(c *Config) (string, error) {
	if c.SocketBalancing == socketOff {
		return "", errSocketOff
	}
	if c.SocketCgroup != "" {
		return c.SocketCgroup, nil
	}
	h, err := cgroups.Find()
	switch {
	case err != nil:
		return "", err
	case !h.Whole:
		return "", fmt.Errorf("this process sees no more than its own control group, at %s: run the agent in the host's cgroup namespace (docker run --cgroupns host), or name a group with --socket-cgroup", h.Path)
	}
	return h.Path, nil
}

// downSockets removes what leads connections in connect().
func downSockets() error { return socket.Down(socket.Options{Pins: socketPins}) }
