package dockerwatch

import (
	"context"
	"fmt"
	"strings"

	"github.com/docker/docker/api/types/swarm"
)

// EngineInfo is what kind of engine there is.
type EngineInfo struct {
	Version  string `json:"version"`            // "28.5.2"
	OS       string `json:"os"`                 // "Debian GNU/Linux 13 (trixie)"
	Root     string `json:"root"`               // the folder of its data
	Rootless bool   `json:"rootless"`           // it does not run as root
	Swarm    bool   `json:"swarm"`              // it is part of a Swarm
	Cgroup   string `json:"cgroup,omitempty"`   // the version of control groups, "2"
	Firewall string `json:"firewall,omitempty"` // what writes its rules, "iptables" or "nftables"; "": it is too old to tell
}

// Desktop tells whether its containers run in a virtual machine of Docker
// Desktop.
func (e *EngineInfo) Desktop() bool { return strings.Contains(e.OS, "Docker Desktop") }

// Snap tells whether it is the one of the snap store, or of Ubuntu Core.
func (e *EngineInfo) Snap() bool { return strings.HasPrefix(e.Root, "/var/snap/") }

// Info asks the engine.
func Info(ctx context.Context, host string) (EngineInfo, error) {
	c, err := dial(host)
	if err != nil {
		return EngineInfo{}, fmt.Errorf("engine at %s: %w", host, err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	i, err := c.Info(ctx)
	if err != nil {
		return EngineInfo{}, err
	}
	e := EngineInfo{
		Version: i.ServerVersion, OS: i.OperatingSystem, Root: i.DockerRootDir, Cgroup: i.CgroupVersion,
		Swarm: i.Swarm.LocalNodeState != "" && i.Swarm.LocalNodeState != swarm.LocalNodeStateInactive,
	}
	for _, o := range i.SecurityOptions {
		e.Rootless = e.Rootless || strings.Contains(o, "name=rootless")
	}
	if i.FirewallBackend != nil {
		e.Firewall, _, _ = strings.Cut(i.FirewallBackend.Driver, "+") // "iptables+firewalld"
	}
	return e, nil
}
