//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types"
	containers "github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"golang.org/x/sync/errgroup"

	"shoal/lab"
	"shoal/lab/kernel"
	"shoal/lab/traffic"
)

// waitLimit is how long a test waits for what takes milliseconds on a quiet machine, and seconds on one whose processors others use fully.
const waitLimit = time.Minute

// slowness is how many times as long as natively things may take, and as rarely a load does something.
func slowness() time.Duration {
	if lab.Plane() == kernel.IPVS {
		return 4 // User-Mode Linux has one processor for three hosts, and a tenth of its speed
	}
	return 1
}

// dnsServer is where agents answer names unless told otherwise.
const dnsServer = "10.96.0.10"

// host is a host of the lab as a test uses it.
type host struct {
	*lab.Host
	t *testing.T
}

// home is the host that tests share, with an agent as nobody configured it. The test's containers and networks are
// removed when it ends.
func home(t *testing.T) *host {
	t.Helper()
	h := on(t, "a")
	h.t.Cleanup(h.clear)
	if _, err := ask[status](h, "status"); err != nil {
		h.StartAgent()
	}
	h.ready()
	return h
}

// on is a host of the shared lab, whatever runs there.
func on(t *testing.T, name string) *host {
	t.Helper()
	return &host{shared.With(t).Host(name), t}
}

// ready waits until the agent knows its containers and what it knew before.
func (h *host) ready() {
	h.t.Helper()
	lab.Eventually(h.t, waitLimit, "the agent has its store and its engine", func() error {
		s, err := ask[status](h, "status")
		switch {
		case err != nil:
			return err
		case s.Engine != "connected":
			return errors.New(s.Engine)
		case s.Store.Snapshot == 0:
			return errors.New(s.Store.Waiting)
		}
		return nil
	})
}

// summary is what became of a load.
type summary = traffic.Summary

// meshNetwork is the Docker network that an agent makes.
const meshNetwork = "mesh"

// clientName is the container that stays for all tests.
const clientName = "client"

// wholePass waits until the agent has once more compared all of the kernel with what should be.
func (h *host) wholePass() {
	h.t.Helper()
	count := func() float64 { return h.metrics()[`shoal_reconcile_duration_seconds_count{full="true",part="lb"}`] }
	before := count()
	lab.Eventually(h.t, waitLimit, "the agent has read the kernel whole", func() error {
		if n := count(); n <= before {
			return fmt.Errorf("%v times", n)
		}
		return nil
	})
}

// clear removes what a test has made.
func (h *host) clear() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's has ended
	defer cancel()
	h.engine(func(c *client.Client) error {
		all, err := c.ContainerList(ctx, containers.ListOptions{All: true})
		if err != nil {
			return err
		}
		var removing errgroup.Group
		for _, one := range all {
			if !slices.Contains(one.Names, "/"+clientName) {
				removing.Go(func() error { return c.ContainerRemove(ctx, one.ID, containers.RemoveOptions{Force: true}) })
			}
		}
		if err := removing.Wait(); err != nil {
			return err
		}
		networks, err := c.NetworkList(ctx, network.ListOptions{})
		if err != nil {
			return err
		}
		builtin := []string{"bridge", "host", "none", meshNetwork}
		var errs []error
		for _, n := range networks {
			if !slices.Contains(builtin, n.Name) {
				errs = append(errs, c.NetworkRemove(ctx, n.ID))
			}
		}
		return errors.Join(errs...)
	})
}

// engine asks something of the host's engine by its socket: housekeeping that takes no process.
func (h *host) engine(ask func(*client.Client) error) {
	h.t.Helper()
	c, err := client.NewClientWithOpts(client.WithHost("unix://"+h.DockerSocket()), client.WithAPIVersionNegotiation())
	if err == nil {
		defer c.Close()
		err = ask(c)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// meshSubnet waits until the agent has made its Docker network, and returns the subnet of that.
func (h *host) meshSubnet() (subnet string) {
	h.t.Helper()
	lab.Eventually(h.t, waitLimit, "the mesh's network is there", func() (err error) {
		subnet, err = h.TryDocker("network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}}{{end}}", meshNetwork)
		return err
	})
	return subnet
}

// run starts a container of that name and host name. Options are those of docker run, with spaces between.
func (h *host) run(name, options string, command ...string) container {
	h.t.Helper()
	args := append([]string{"run", "-d", "--name", name, "--hostname", name}, strings.Fields(options)...)
	h.Docker(append(append(args, lab.Image), command...)...)
	return container{h, name}
}

// pause pauses a container. While processes begin in it all the time, as health checks do on a busy machine, runc does not always succeed in
// freezing them all, and thaws those that it has.
func (h *host) pause(name string) {
	h.t.Helper()
	lab.Eventually(h.t, waitLimit, name+" is paused", func() error {
		_, err := h.TryDocker("pause", name)
		if err != nil && !strings.Contains(err.Error(), "unable to freeze") {
			h.t.Fatal(err)
		}
		return err
	})
}

// useDNS are the options of docker run that the daemon.json of docker-config makes unnecessary.
const useDNS = "--dns " + dnsServer + " --dns-search mesh.internal --dns-opt timeout:1 --dns-opt attempts:5 --dns-opt ndots:1"

// client is a container on the engine's default network, of no service, that resolves names by shoal.
func (h *host) client() container {
	h.t.Helper()
	c, state := container{h, clientName}, ""
	h.engine(func(engine *client.Client) error {
		j, err := engine.ContainerInspect(h.t.Context(), clientName)
		switch {
		case client.IsErrNotFound(err):
			return nil
		case err == nil:
			state = j.State.Status
		}
		return err
	})
	switch state {
	case "running":
	case "":
		h.run(clientName, useDNS, "sleep", "1000000")
	default:
		h.Docker("start", clientName)
	}
	return c
}

// container is one that runs.
type container struct {
	h    *host
	name string
}

// inspect is what docker inspect says of it.
func (c container) inspect() (j types.ContainerJSON) {
	c.h.t.Helper()
	c.h.engine(func(engine *client.Client) (err error) {
		j, err = engine.ContainerInspect(c.h.t.Context(), c.name)
		return err
	})
	return j
}

// addr is its address on its only network.
func (c container) addr() string {
	c.h.t.Helper()
	networks := c.inspect().NetworkSettings.Networks
	if len(networks) != 1 {
		c.h.t.Fatalf("%s is on %d networks", c.name, len(networks))
	}
	for _, n := range networks {
		return n.IPAddress
	}
	return ""
}

// enter is the command that enters the container's namespaces: as docker exec, at a tenth of its time. With files its
// own, a command is one of the container's; else it is one of the host's, on the container's network.
func (c container) enter(files bool) []string {
	c.h.t.Helper()
	args := []string{"nsenter", "--target", fmt.Sprint(c.inspect().State.Pid), "--net"}
	if files {
		args = append(args, "--mount", "--uts")
	}
	return append(args, "--")
}

func (c container) tryExec(args ...string) (string, error) {
	c.h.t.Helper()
	return c.h.TryExec(append(c.enter(true), args...)...)
}

func (c container) exec(args ...string) string {
	c.h.t.Helper()
	return c.h.Exec(append(c.enter(true), args...)...)
}

// load makes requests in the container until they are done, by the flags and the target of whoami load.
func (c container) load(args ...string) summary {
	c.h.t.Helper()
	return c.h.sum(append(append(c.enter(true), "whoami", "load", "--interval", "1ms"), args...)...)
}

// load makes requests on the host until they are done, by the flags and the target of whoami load.
func (h *host) load(args ...string) summary {
	h.t.Helper()
	return h.sum(append([]string{"whoami", "load", "--interval", "1ms"}, args...)...)
}

func (h *host) sum(command ...string) summary {
	h.t.Helper()
	s, err := traffic.ParseSummary(h.Exec(command...))
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// get makes a request on the host, and returns who answered.
func (h *host) get(url string) (hostname string, err error) {
	out, err := h.TryExec("whoami", "get", url)
	return field(out, "hostname"), err
}

// field is a field of whoami's answer.
func field(answer, name string) string {
	for f := range strings.FieldsSeq(answer) {
		if v, ok := strings.CutPrefix(f, name+"="); ok {
			return v
		}
	}
	return ""
}

// service is a service as the agent has it, with a VIP.
func (h *host) service(id string) (found service) {
	h.t.Helper()
	lab.Eventually(h.t, waitLimit, "service "+id+" has a VIP", func() error {
		all, err := ask[[]service](h, "services")
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(s service) bool { return s.ID == id })
		if i < 0 || all[i].VIP == "" {
			return fmt.Errorf("the services are %+v", all)
		}
		found = all[i]
		return nil
	})
	return found
}

// vip is the VIP of a service of the default stack.
func (h *host) vip(name string) string {
	h.t.Helper()
	return h.service("default/" + name).VIP
}

// web is the URL of a service of the default stack, by its VIP.
func (h *host) web(name string) string {
	h.t.Helper()
	return "http://" + h.vip(name) + ":8000/"
}

// answered waits until all those and nobody else answer on an URL, and no request fails.
func (h *host) answered(url string, by ...string) {
	h.t.Helper()
	if len(by) == 0 {
		h.t.Fatal("answered by nobody: see refused")
	}
	slices.Sort(by)
	lab.Eventually(h.t, waitLimit, fmt.Sprintf("%s is answered by %v", url, by), func() error {
		s := h.load("--timeout", "1s", "--count", fmt.Sprint(2*len(by)), url)
		if got := slices.Sorted(maps.Keys(s.Hostnames)); s.Failed > 0 || !slices.Equal(got, by) {
			return fmt.Errorf("answered by %v, %d requests failed: %v", s.Hostnames, s.Failed, s.Errors)
		}
		return nil
	})
}

// refused waits until a URL is refused: at once, and not by being left alone.
func (h *host) refused(url string) {
	h.t.Helper()
	lab.Eventually(h.t, waitLimit, url+" is refused", func() error {
		return refusal(h.TryExec("whoami", "get", "--timeout", "1s", url))
	})
}

// refusal checks that a request was refused, by the outcome of whoami get.
func refusal(out string, err error) error {
	switch {
	case err == nil:
		return fmt.Errorf("answered: %s", out)
	case !strings.Contains(err.Error(), "connection refused"):
		return fmt.Errorf("not refused, but %w", err)
	}
	return nil
}

// task waits until the agent has a container in a state, "" for not at all.
func (h *host) task(name string, state string) {
	h.t.Helper()
	lab.Eventually(h.t, waitLimit, fmt.Sprintf("task %s is %q", name, state), func() error {
		all, err := ask[[]task](h, "tasks")
		if err != nil {
			return err
		}
		var is string
		for _, t := range all {
			if t.Name == name {
				is = t.State
			}
		}
		if is != state {
			return fmt.Errorf("it is %q", is)
		}
		return nil
	})
}

// problem waits until an object has the problem of that code, and returns its reason.
func (h *host) problem(object, code string) (reason string) {
	h.t.Helper()
	lab.Eventually(h.t, waitLimit, object+" is a problem, "+code, func() error {
		p, err := h.findProblem(object, code)
		if err == nil && p.Code != code {
			err = fmt.Errorf("it is %q: %s", p.Code, p.Reason)
		}
		reason = p.Reason
		return err
	})
	return reason
}

// noProblem waits until an object has none.
func (h *host) noProblem(object string) {
	h.t.Helper()
	lab.Eventually(h.t, waitLimit, object+" is no problem", func() error {
		p, err := h.findProblem(object, "")
		if err == nil && p.Code != "" {
			err = errors.New(p.Reason)
		}
		return err
	})
}

// findProblem finds an object's problem of that code, or else any that it has.
func (h *host) findProblem(object, code string) (found problem, err error) {
	all, err := ask[[]problem](h, "problems")
	for _, p := range all {
		if p.Object == object && (found.Code == "" || p.Code == code) {
			found = p
		}
	}
	return found, err
}

// jsonOf decodes what a command printed.
func jsonOf[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("this is no JSON of a %T: %v\n%s", v, err, text)
	}
	return v
}
