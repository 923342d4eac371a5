package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"shoal/kernel/cgroups"
	"shoal/kernel/sockets"
	"shoal/lb"
	"shoal/lb/socket"
	"shoal/model"
)

// The values of --socket-balancing.
const (
	socketAuto = "auto"
	socketOff  = "off"
)

// socketPins is where the programs and maps are that balance in connect().
const socketPins = bpfFolder + "/shoal"

// bpfFolder is where the BPF file system is mounted.
const bpfFolder = "/sys/fs/bpf"

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
		o.Log = log.With("part", "socket")
		options := socketOptions(o.Log)
		options.PlaneOptions, options.Next, options.Cgroup = o, p.DataPlane, group
		var led *socket.Plane
		if led, err = socket.New(options); err == nil {
			p.socketWhy = socketLacks()
			p.DataPlane, p.led, p.socketGroup = led, led, group
			log.Info("connections to VIPs are led in connect()", "cgroup", group, "lacks", p.socketWhy)
			return nil
		}
	}
	p.socketWhy = err.Error()
	log.Info("connections to VIPs are not led in connect()", "why", err)
	if err := downSockets(log); err != nil {
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

// socketOptions are what is done to the sockets of other processes, where the kernel lets it be
// done.
func socketOptions(log *slog.Logger) socket.Options {
	o := socket.Options{PlaneOptions: lb.PlaneOptions{Log: log}, Pins: socketPins}
	if sockets.CanDestroy() == nil {
		o.Destroy = sockets.Destroy
	}
	if sockets.CanReconnect() == nil {
		o.Reconnect = sockets.Reconnect
	}
	return o
}

// socketLacks is what of that cannot be done here, and what follows from it; "": nothing.
func socketLacks() string {
	var lacks []string
	if err := sockets.CanDestroy(); err != nil {
		lacks = append(lacks, "connections to tasks that are gone are not closed: "+err.Error())
	}
	if err := sockets.CanReconnect(); err != nil {
		lacks = append(lacks, "UDP is left to the data plane, as sockets could not follow their service: "+err.Error())
	}
	if private(bpfFolder, "/proc/1/root"+bpfFolder) {
		lacks = append(lacks, "it ends with this agent: "+bpfFolder+" is not the host's, as in a container that has its own; mount the host's there, where the BPF file system has to be (mount -t bpf bpf "+bpfFolder+")")
	}
	return strings.Join(lacks, "; ")
}

// private tells whether a folder of this process is on another file system than that of the host's first process.
// Where that one cannot be looked at, it is not known, and passes for the same.
func private(own, first string) bool {
	var a, b unix.Stat_t
	return unix.Stat(own, &a) == nil && unix.Stat(first, &b) == nil && a.Dev != b.Dev
}

// downSockets removes what leads connections in connect().
func downSockets(log *slog.Logger) error { return socket.Down(socketOptions(log)) }

// outsidePeriod is how often it is looked which containers are outside of the control
// group.
const outsidePeriod = 10 * time.Second

// watchOutside tells which containers are not led in connect() as others are, because
// their engine has control groups of its own.
func (a *Agent) watchOutside(ctx context.Context) error {
	if a.plane.socketGroup == "" {
		return nil
	}
	tick := time.NewTicker(outsidePeriod)
	defer tick.Stop()
	known := map[int]bool{} // process -> whether it is outside
	for {
		if pids, err := a.watcher.Processes(ctx); err == nil {
			var outside []string
			looked := make(map[int]bool, len(pids))
			for name, pid := range pids {
				is, before := known[pid]
				if !before {
					if is, err = cgroups.Outside(pid, a.plane.socketGroup); err != nil {
						continue // it has ended, or is not to be compared
					}
				}
				if looked[pid] = is; is {
					outside = append(outside, name)
				}
			}
			known = looked
			a.problems.Set("socket", outsideProblems(outside, a.plane.socketGroup, a.config.Node))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// outsideProblems names the first of the containers that are outside.
func outsideProblems(names []string, group, node string) []model.Problem {
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	which := "container " + names[0] + " is"
	if n := len(names) - 1; n > 0 {
		which = fmt.Sprintf("container %s and %d more are", names[0], n)
	}
	return []model.Problem{{Node: node, Code: model.SocketOutside, Notice: true, Kind: "kernel", Object: "control group " + group,
		Reason: which + " outside of it: the data plane carries what they send to VIPs; have their engine use the same hierarchy, or name a group that holds them with --socket-cgroup"}}
}
