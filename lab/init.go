package lab

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/lab/kernel"
)

// MachineInit is the first process of a machine, for the lab binary to call: it is started in new namespaces, gives
// them what a machine has, says so on descriptor 3, and reaps processes until it is killed. Name is the machine's, dir its folder.
func MachineInit(name, dir string) error {
	if os.Getpid() != 1 {
		return fmt.Errorf("machine %s: this is for the lab to start, in namespaces of its own", name)
	}
	if err := prepare(name, dir); err != nil {
		return err
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	ready := os.NewFile(3, "ready")
	if _, err := ready.Write([]byte{1}); err != nil {
		return err
	}
	ready.Close()
	for range children {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid == 0 {
				break
			}
		}
	}
	return nil
}

func prepare(name, dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := kernel.MountSys(); err != nil {
		return err
	}
	// Not over the other one: the engine would take that for the one its containers see.
	if err := unix.Unmount("/run", unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount /run: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	// As systemd has it: what a container mounts there, if it asks for that, the machine sees too.
	if err := unix.Mount("", "/run", "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share /run: %w", err)
	}
	// Each machine has its own, so that no agent sees what another one pins. A kernel without BPF has none.
	err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700")
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("mount /sys/fs/bpf: %w", err)
	}
	if err := bindOver(filepath.Join(dir, "resolv.conf"), "/etc/resolv.conf"); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	// As on a machine that has just started. An engine that finds it so turns it on, and sets the policy of FORWARD to
	// DROP; one that finds it on already does not.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// bindOver mounts file where at is. Where at is a link to a file in /run, as systemd has it, that is made first: /run is new.
func bindOver(file, at string) error {
	if _, err := os.Stat(at); os.IsNotExist(err) {
		target, err := os.Readlink(at)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(at), target)
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, nil, 0o644); err != nil {
			return err
		}
		at = target
	}
	if err := unix.Mount(file, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", file, at, err)
	}
	return nil
}
