package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/client"
	"golang.org/x/sys/unix"

	"shoal/api"
	"shoal/lab"
	"shoal/model"
)

// waitLimit is how long the bench waits for what takes a second on a quiet machine.
const waitLimit = 5 * time.Minute

// planeAlone has an agent lead nobody in connect(): what the other parts than socket and rest measure
// is the data plane.
var planeAlone = []string{"--socket-balancing", "off"}

// site is a host with an agent, and what is needed to look at it without
// starting a process.
type site struct {
	*bench
	host   *lab.Host
	docker *client.Client
	agents *api.Client
	root   string // the host's files as the bench sees them
	inHost *thread
	kernel look // of inHost
}

func newSite(b *bench, host *lab.Host) *site {
	s := &site{bench: b, host: host}
	s.root = strings.TrimSuffix(host.Netns(), "ns/net") + "root"
	s.inHost = b.enter(host.Netns())
	b.must("open what the data plane has in the kernel", s.inHost.do(func() (err error) {
		s.kernel, err = thePlane().look()
		return err
	}))
	b.Cleanup(s.kernel.Close)
	s.agents = api.NewClient(host.AgentSocket())
	var err error
	s.docker, err = client.NewClientWithOpts(client.WithHost("unix://"+host.DockerSocket()), client.WithAPIVersionNegotiation())
	b.must("open the engine", err)
	b.Cleanup(func() { s.docker.Close() })
	return s
}

// run starts a container, whose options are those of docker run.
func (s *site) run(network, name string, addr netip.Addr, args ...string) {
	s.host.Docker(append([]string{"run", "-d", "--network", network, "--name", name, "--hostname", name, "--ip", addr.String()}, args...)...)
}

// caller makes requests from a container that runs; its further addresses begin with spare.
func (s *site) caller(container string, spare netip.Addr) *caller {
	return s.newCaller(s.root+s.host.Docker("inspect", "-f", "{{.NetworkSettings.SandboxKey}}", container), spare)
}

// vip waits until a service of the default stack has so many tasks in rotation,
// and a VIP, which it returns.
func (s *site) vip(name string, tasks int) (vip netip.Addr) {
	lab.Eventually(s, waitLimit, s.host.Name()+" gives "+name+" a VIP", func() error {
		services, err := s.agents.Services(context.Background())
		for _, found := range services {
			if found.ID == model.DefaultStack+"/"+name && found.InRotation == tasks && found.VIP.IsValid() {
				vip = found.VIP
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("it is not among %d services, with %d tasks", len(services), tasks))
	})
	return vip
}

// kill kills a container's process, and returns when. The engine is told nothing.
func (s *site) kill(container string) time.Time {
	c, err := s.docker.ContainerInspect(context.Background(), container)
	s.must("inspect the container", err)
	proc, err := unix.Open(filepath.Join(s.root, "proc", strconv.Itoa(c.State.Pid)), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	s.must("find the container's process", err)
	defer unix.Close(proc)
	now := time.Now()
	s.must("kill the container", unix.PidfdSendSignal(proc, unix.SIGKILL, nil, 0))
	return now
}

// askQuickly lets a network namespace ask for neighbours on a device every 20 ms. Having
// asked for a container that is away in vain, it would ask again only after a
// second.
func (b *bench) askQuickly(in *thread, device string) {
	b.must("let it look for neighbours every 20 ms", in.do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/neigh/"+device+"/retrans_time_ms", []byte("20"), 0)
	}))
}

// vips are the VIPs that the kernel has.
func (s *site) vips() (all map[netip.Addr]bool) {
	s.must("read the VIPs in the kernel", s.inHost.do(func() (err error) {
		all, err = s.kernel.vips()
		return err
	}))
	return all
}

// rotation is how many backends of a VIP get new connections, as the kernel has it.
func (s *site) rotation(vip netip.Addr) (n int) {
	s.must("read the backends of a VIP", s.inHost.do(func() (err error) {
		n, err = s.kernel.rotation(vip)
		return err
	}))
	return n
}

// awaitRotation waits until so many backends of a VIP get new connections, and returns
// when.
func (s *site) awaitRotation(vip netip.Addr, n int) time.Time {
	lab.Eventually(s, waitLimit, fmt.Sprintf("%s has %d tasks of %s in rotation", s.host.Name(), n, vip), func() error {
		if got := s.rotation(vip); got != n {
			return fmt.Errorf("it has %d", got)
		}
		return nil
	})
	return time.Now()
}
