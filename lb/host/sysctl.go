package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"shoal/kernel"
	"shoal/kernel/sysctl"
)

// Sysctls remembers what kernel parameters were before a plane changed them.
// [Down] puts all of them back.
func Sysctls(dir string) *sysctl.Keeper { return sysctl.New(filepath.Join(dir, "sysctl.json")) }

// Forward has this host forward packets.
func Forward(dir string) error { return Sysctls(dir).Set("net.ipv4.ip_forward", "1") }

// RouteLocalnet lets packets that are sent from 127.0.0.0/8 leave by a device.
func RouteLocalnet(dir, device string) error {
	return Sysctls(dir).Set(sysctl.IPv4(device, "route_localnet"), "1")
}

// Whether what any bridge of the network namespace forwards passes netfilter.
// It is there only with the module br_netfilter.
const (
	everyBridge     = "net.bridge.bridge-nf-call-iptables"
	everyBridgeFile = "/proc/sys/net/bridge/bridge-nf-call-iptables"
)

// everyBridges are the like of everyBridge for each family, all of which the module
// begins with at 1.
var everyBridges = []string{everyBridge, "net.bridge.bridge-nf-call-ip6tables", "net.bridge.bridge-nf-call-arptables"}

// Netfilter loads br_netfilter, without which no bridge passes packets to
// netfilter. Loaded, it would pass those of every bridge, bridges of virtual
// machines among them, unless it is told not to: those of this host's tasks are
// told by themselves, see [Bridges].
func Netfilter(ctx context.Context) error {
	if _, err := os.Stat(everyBridgeFile); err == nil {
		return nil // somebody else loaded it, and has it as they want
	}
	if err := kernel.Need(ctx, everyBridgeFile, "br_netfilter"); err != nil {
		return err
	}
	var errs []error
	for _, name := range everyBridges {
		errs = append(errs, sysctl.Set(name, "0"))
	}
	return errors.Join(errs...)
}

// Down removes the route of the pool, and puts back the kernel's parameters and
// how bridges and their ports forward. Nothing of that there is not an error.
func Down(dir string) error {
	return errors.Join(DropRoute(), downPorts(dir), downBridges(dir), downLimits(dir), Sysctls(dir).Restore())
}
