//go:build hosts

package hosts

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"shoal/lab/traffic"
)

// walk tries what has to work, on every host.
func (s *suite) walk() {
	s.t.Helper()
	s.disturbed()
	s.each(func(h *host) {
		if !s.holds(h.Name()+" sees every host alive", h.seesAll) {
			return
		}
		for _, check := range []struct {
			what string
			do   func() error
		}{
			{"a container reaches web by its name", func() error { return h.fromContainer("client", "http://web:8000/", true) }},
			{"a container of another bridge reaches web by its name", func() error { return h.fromContainer("other", "http://web.mesh.internal:8000/", false) }},
			{"tasks.web are all tasks", h.tasksByName},
			{"the host reaches the VIP", func() error {
				return s.servedByAll(h.run("whoami load --count %d http://%v:8000/", s.requests(), s.vip))
			}},
			{"the neighbour reaches the published port", h.published},
			{"127.0.0.1 has the published port", func() error {
				return s.servedByAll(h.run("whoami load --count %d http://127.0.0.1:8080/", s.requests()))
			}},
			{"a container pings the VIP", func() error { _, err := h.exec("client", "ping -c 1 -W 2 %v", s.vip); return err }},
			{"the host pings the VIP", func() error { _, err := h.run("ping -c 1 -W 2 %v", s.vip); return err }},
			{"a container reaches those of other hosts", h.acrossHosts},
			{"connect() leads to tasks", h.ledInConnect},
		} {
			s.holds("on "+h.Name()+", "+check.what, check.do)
		}
	})
	s.drain()
}

// led is what explain says of a port of which connections were led.
var led = regexp.MustCompile(`; [1-9]\d* connections so far`)

// ledInConnect says that connections to VIPs are led in connect(), and that they were.
func (h *host) ledInConnect() error {
	out, err := h.run("shoal status -o json || test $? = 1")
	if err != nil {
		return err
	}
	var status struct {
		Cgroup string `json:"socketCgroup"`
		Why    string `json:"socketReason"`
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return fmt.Errorf("shoal status: %w", err)
	}
	if status.Cgroup != "/sys/fs/cgroup" {
		return fmt.Errorf("the control group is %q: %s", status.Cgroup, status.Why)
	}
	if status.Why != "" { // the service's system calls and capabilities suffice for what is done to sockets
		return fmt.Errorf("connections are led, but: %s", status.Why)
	}
	out, err = h.run("shoal explain -v web")
	if err != nil {
		return err
	}
	if !strings.Contains(out, "connect4 at /sys/fs/cgroup: program") || !led.MatchString(out) {
		return fmt.Errorf("shoal explain says\n%s", out)
	}
	return nil
}

// requests are so many that each task gets some.
func (s *suite) requests() int { return 4 * len(s.hosts) }

// servedByAll reads what a load printed: no request of it failed, and every task answered some.
func (s *suite) servedByAll(out string, err error) error {
	_, err = s.summary(out, err)
	return err
}

func (s *suite) summary(out string, err error) (traffic.Summary, error) {
	if err != nil {
		return traffic.Summary{}, err
	}
	sum, err := traffic.ParseSummary(out)
	if err != nil {
		return sum, err
	}
	if sum.Failed > 0 {
		return sum, fmt.Errorf("%d of %d requests failed: %v", sum.Failed, sum.Sent, sum.Errors)
	}
	for _, h := range s.hosts {
		if sum.Hostnames["web-"+h.Name()] == 0 {
			return sum, fmt.Errorf("web-%s answered none: %v", h.Name(), sum.Hostnames)
		}
	}
	return sum, nil
}

// seenAs says that all tasks saw the client by its own address.
func seenAs(sum traffic.Summary, addr netip.Addr) error {
	for client := range sum.Clients {
		if client != addr.String() {
			return fmt.Errorf("the client %v is seen as %v", addr, sum.Clients)
		}
	}
	return nil
}

// fromContainer has a container use a service. One of the mesh is seen by its own address, everywhere; another one by tasks
// of its own host.
func (h *host) fromContainer(container, url string, mesh bool) error {
	out, err := h.exec(container, "whoami load --count %d %s", h.s.requests(), url)
	sum, err := h.s.summary(out, err)
	if err != nil {
		return err
	}
	own, err := h.addr(container)
	if err != nil {
		return err
	}
	if mesh {
		return seenAs(sum, own)
	}
	if sum.Clients[own.String()] != sum.Hostnames["web-"+h.Name()] {
		return fmt.Errorf("its own host's task sees %v as another: %v of %v", own, sum.Clients, sum.Hostnames)
	}
	return nil
}

// tasksByName says that tasks.web has the addresses of all tasks.
func (h *host) tasksByName() error {
	out, err := h.exec("client", "getent ahostsv4 tasks.web.mesh.internal")
	if err != nil {
		return err
	}
	for _, other := range h.s.hosts {
		addr, err := other.addr("web")
		if err != nil {
			return err
		}
		if !slices.Contains(strings.Fields(out), addr.String()) {
			return fmt.Errorf("%v of web-%s is not in\n%s", addr, other.Name(), out)
		}
	}
	return nil
}

// published says that the neighbour is served on the host's published port, by all tasks, who see its address.
func (h *host) published() error {
	out, err := h.s.neighbour(whoami(), "load", "--count", fmt.Sprint(h.s.requests()), fmt.Sprintf("http://%v:8080/", h.Addr()))
	sum, err := h.s.summary(out, err)
	if err != nil {
		return err
	}
	return seenAs(sum, h.s.wire.Addr())
}

// acrossHosts says that a container of the mesh reaches another host's by its address, and is seen by its own.
func (h *host) acrossHosts() error {
	for _, other := range h.s.hosts {
		if other == h {
			continue
		}
		to, err := other.addr("quiet")
		if err != nil {
			return err
		}
		own, err := h.addr("client")
		if err != nil {
			return err
		}
		out, err := h.exec("client", "whoami get http://%v:8000/", to)
		if err != nil {
			return err
		}
		if !strings.Contains(out, fmt.Sprintf("client=%v:", own)) {
			return fmt.Errorf("%v is seen as another:\n%s", own, out)
		}
	}
	return nil
}

// drain stops a task while it is asked, from the link and by a container. No request fails.
func (s *suite) drain() {
	a := s.hosts[0]
	s.disturbed()
	a.start("leaving", "--network mesh -l shoal.service=web -l shoal.ports=8000,8002/udp -l shoal.publish=8080:8000 -l shoal.drain=3s")
	defer func() {
		a.must("docker rm -f leaving-a")
		if _, err := a.exec("client", "rm -f /tmp/done"); err != nil {
			s.fail("%v", err)
		}
	}()
	url := fmt.Sprintf("http://%v:8080/", a.Addr())
	if !s.holds("a new task is in rotation", func() error {
		out, err := s.neighbour(whoami(), "load", "--count", fmt.Sprint(2*s.requests()), url)
		sum, err := s.summary(out, err)
		if err == nil && sum.Hostnames["leaving-a"] == 0 {
			err = fmt.Errorf("it answered none: %v", sum.Hostnames)
		}
		return err
	}) {
		return
	}
	done := filepath.Join(s.t.TempDir(), "done")
	var loads sync.WaitGroup
	under := func(who string, load func() (string, error)) {
		loads.Go(func() {
			out, err := load()
			sum, err := s.summary(out, err)
			if err == nil && sum.Hostnames["leaving-a"] == 0 {
				err = errors.New("it was asked nothing before it left: this proves nothing")
			}
			if err != nil {
				s.fail("while a task is drained, %s: %v", who, err)
			}
		})
	}
	under("the neighbour", func() (string, error) {
		return s.neighbour(whoami(), "load", "--until-file", done, "--interval", "50ms", "--timeout", "10s", url)
	})
	under("a container", func() (string, error) {
		return a.exec("client", "whoami load --until-file /tmp/done --interval 50ms --timeout 10s http://%v:8000/", s.vip)
	})
	// The container's load is to run before the task leaves.
	s.holds("a container loads", func() error { _, err := a.run("pgrep -f '^whoami load --until-file'"); return err })
	if out, err := a.run("shoal stop leaving-a"); err != nil {
		s.fail("shoal stop: %v %s", err, out)
	}
	if out, err := a.exec("client", "touch /tmp/done"); err != nil {
		s.fail("end the container's load: %v %s", err, out)
	}
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		s.fail("%v", err)
	}
	loads.Wait()
}
