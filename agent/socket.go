package agent

import (
	"path/filepath"

	"shoal/kernel/cgroups"
)

// The values of --socket-balancing.
const (
	socketAuto = "auto"
	socketOff  = "off"
)

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
