//go:build e2e

package bridge

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"shoal/kernel"
	"shoal/kernel/sysctl"
)

// twoOnABridge puts the test on a thread in a network namespace of its own,
// for good, with two bridges, and two neighbours on the first of them, which is
// called br.0: ping sends from one to the other.
func twoOnABridge(t *testing.T) (ping func() error) {
	t.Helper()
	runtime.LockOSThread()
	host, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	run := func(format string, args ...any) {
		t.Helper()
		command := fmt.Sprintf(format, args...)
		if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	run("ip link set lo up; for b in br.0 br.1; do ip link add $b type bridge && ip link set $b up || exit; done")
	var pids []int
	for i := range 2 {
		neighbour := exec.Command("unshare", "-n", "sleep", "1000")
		if err := neighbour.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			neighbour.Process.Kill()
			neighbour.Wait()
		})
		pid := neighbour.Process.Pid
		pids = append(pids, pid)
		own, err := netns.GetFromPid(pid)
		for err == nil && own.Equal(host) { // it has not left yet
			own.Close()
			own, err = netns.GetFromPid(pid)
		}
		if err != nil {
			t.Fatal(err)
		}
		own.Close()
		run("ip link add v%d type veth peer name eth0 netns %d && ip link set v%[1]d master br.0 up", i, pid)
		run("nsenter -t %d -n sh -c 'ip link set eth0 up && ip addr add 10.9.0.%d/24 dev eth0'", pid, i+1)
	}
	return func() error {
		out, err := exec.Command("nsenter", "-t", fmt.Sprint(pids[0]), "-n", "ping", "-c1", "-W1", "10.9.0.2").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
}

func TestOneBridgePassesItsPacketsToNetfilter(t *testing.T) {
	ping := twoOnABridge(t)
	if err := kernel.Need(t.Context(), "/proc/sys/net/bridge/bridge-nf-call-iptables", "br_netfilter"); err != nil {
		t.Fatal(err)
	}
	if err := sysctl.Set("net.bridge.bridge-nf-call-iptables", "0"); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("iptables", "-P", "FORWARD", "DROP").CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	is := func(bridge string, want bool) {
		t.Helper()
		if got, err := NFCallIPTables(bridge); err != nil || got != want {
			t.Errorf("bridge %s passes its packets to netfilter: %v, %v, want %v", bridge, got, err, want)
		}
	}
	set := func(bridge string, on bool) {
		t.Helper()
		if err := SetNFCallIPTables(bridge, on); err != nil {
			t.Error(err)
		}
		is(bridge, on)
	}

	is("br.0", false)
	set("br.1", true)
	is("br.0", false)
	if err := ping(); err != nil {
		t.Errorf("netfilter drops what another bridge forwards: %v", err)
	}
	set("br.0", true)
	if err := ping(); err == nil {
		t.Error("netfilter does not see what the bridge forwards")
	}
	set("br.0", false)
	if err := ping(); err != nil {
		t.Errorf("netfilter still drops what the bridge forwards: %v", err)
	}
}

func TestWhatIsNoBridgeIsAnError(t *testing.T) {
	twoOnABridge(t)
	if _, err := NFCallIPTables("v0"); err == nil || !strings.Contains(err.Error(), "no bridge") {
		t.Errorf("of a port: %v", err)
	}
	if _, err := NFCallIPTables("gone"); err == nil {
		t.Error("of a device that is not there: no error")
	}
	if err := SetNFCallIPTables("gone", true); err != nil {
		t.Errorf("to a device that is gone: %v", err)
	}
	if err := SetNFCallIPTables("v0", true); err == nil {
		t.Error("to a port: no error")
	}
	if _, err := netlink.LinkByName("v0"); errors.As(err, &netlink.LinkNotFoundError{}) {
		t.Error("the port is gone")
	}
}
