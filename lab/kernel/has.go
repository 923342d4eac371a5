package kernel

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// facilities are what single tests need of a kernel that can do without, each with a probe that uses it in a network
// namespace of its own.
var facilities = map[string]func() error{
	"sctp": func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
		if err == nil {
			unix.Close(fd)
		}
		return err
	},
	"ipip": func() error {
		// Its own end, since the module makes a device without any, tunl0.
		return netlink.LinkAdd(&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, Local: net.IPv4(192, 0, 2, 1), Proto: unix.IPPROTO_IPIP})
	},
	// A privileged container has every capability that there is; where the machine itself lacks one, none can be started.
	"privileged": func() error {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return err
		}
		last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(last)))
		if err != nil {
			return err
		}
		if all := fmt.Sprintf("CapBnd:\t%016x\n", uint64(1)<<(n+1)-1); !strings.Contains(string(status), all) {
			return errors.New("this machine does not have every capability")
		}
		return nil
	},
	// Sockets of other processes can be closed: sock_diag(7), CONFIG_INET_DIAG_DESTROY. None has these ends.
	"sock_destroy": func() error {
		req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
		req.AddRawData(append([]byte{unix.AF_INET, unix.IPPROTO_TCP}, make([]byte, 54)...))
		_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
		return ignore(err, unix.ENOENT)
	},
	"nf_tables": tryNFTables,
	"cgroup2": func() error {
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err == nil && !strings.Contains(string(mounts), " cgroup2 ") {
			err = errors.New("no version 2 hierarchy of control groups is mounted")
		}
		return err
	},
	"dummy": func() error {
		return netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "probe"}})
	},
	"netem": func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		attrs := netlink.QdiscAttrs{LinkIndex: lo.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
		return netlink.QdiscAdd(netlink.NewNetem(attrs, netlink.NetemQdiscAttrs{}))
	},
}

// umlLacks are those that Debian's User-Mode Linux is built without.
var umlLacks = []string{"sock_destroy", "nf_tables"}

// UMLHas says whether User-Mode Linux is known to have a facility.
func UMLHas(facility string) bool { return !slices.Contains(umlLacks, facility) }

// Has probes whether this kernel has a facility: sctp, ipip, privileged, sock_destroy, nf_tables, cgroup2, dummy or netem. An error says why it
// has not.
func Has(facility string) error {
	probe := facilities[facility]
	if probe == nil {
		return fmt.Errorf("there is no probe for %q, only for %v", facility, slices.Sorted(maps.Keys(facilities)))
	}
	return inNewNetns(probe)
}

// inNewNetns calls f in a network namespace that is gone afterwards.
func inNewNetns(f func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread is left in the namespace, and ends with the goroutine
		ns, e := netns.New()
		if e != nil {
			err = fmt.Errorf("make a network namespace (are you root?): %w", e)
			return
		}
		defer ns.Close()
		err = f()
	}()
	<-done
	return err
}
