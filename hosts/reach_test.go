//go:build hosts

package hosts

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
)

// places are where the rows of the table are tried from: a command is run there. No error and no output: there is nobody.
var places = map[string]func(s *suite, args ...string) (string, error){
	aNeighbour: func(s *suite, args ...string) (string, error) {
		return s.neighbour(append([]string{whoami()}, args...)...)
	},
	onMesh:   inContainer(0, "client"),
	onBridge: inContainer(0, "other"),
	anotherHost: func(s *suite, args ...string) (string, error) {
		if len(s.hosts) < 2 {
			return "", nil
		}
		return s.hosts[1].run("whoami %s", strings.Join(args, " "))
	},
	othersOnMesh:   inContainer(1, "client"),
	othersOnBridge: inContainer(1, "other"),
}

// inContainer runs whoami in a container of the n-th host.
func inContainer(n int, name string) func(*suite, ...string) (string, error) {
	return func(s *suite, args ...string) (string, error) {
		if len(s.hosts) <= n {
			return "", nil
		}
		return s.hosts[n].exec(name, "whoami %s", strings.Join(args, " "))
	}
}

// targets are what of host a is tried.
func (s *suite) targets() ([]target, error) {
	a := s.hosts[0]
	quiet, err := a.addr("quiet")
	if err != nil {
		return nil, err
	}
	web, err := a.addr("web")
	if err != nil {
		return nil, err
	}
	all := []target{
		{unpublished, fmt.Sprintf("tcp://%v:8000", quiet)},
		{unpublished, fmt.Sprintf("udp://%v:8002", quiet)},
		{aTask, fmt.Sprintf("tcp://%v:8001", web)},
		{published, fmt.Sprintf("tcp://%v:8080", a.Addr())},
		{aVIP, fmt.Sprintf("tcp://%v:8000", s.vip)},
		{aVIP, fmt.Sprintf("udp://%v:8002", s.vip)},
		{dns, "dns://10.96.0.10:53/web.mesh.internal"},
		{sandbox, "tcp://169.254.83.1:8080"},
		{joining, fmt.Sprintf("tcp://%v:7947", a.Addr())},
	}
	if len(s.hosts) > 1 { // a lone host listens at none of these
		for _, port := range []int{7946, 2379, 2380} {
			all = append(all, target{members, fmt.Sprintf("tcp://%v:%d", a.Addr(), port)})
		}
	}
	return all, nil
}

// whoReachesWhat tries the table, with real packets. What is to be open may take a moment, as after a disturbance; what is to
// be closed has to be so at once.
func (s *suite) whoReachesWhat() {
	s.t.Helper()
	s.lookAgain() // what is tried on a stale address looks closed
	targets, err := s.targets()
	if err != nil {
		s.fail("%v", err)
		return
	}
	args := []string{"reach", "--timeout", "3s"}
	for _, t := range targets {
		args = append(args, t.url)
	}
	var rows sync.WaitGroup
	for _, row := range table {
		rows.Go(func() {
			var wrong []string
			s.quietly(func() error {
				out, err := places[row.who](s, args...)
				if err != nil {
					wrong = []string{fmt.Sprintf("%s: %v", row.who, err)}
					return err
				}
				var missing []string
				wrong, missing = evaluate(row.who, row.may, targets, out)
				if len(wrong) > 0 { // that is a hole, however short
					return nil
				}
				if wrong = missing; len(missing) > 0 {
					return fmt.Errorf("%s", missing[0])
				}
				return nil
			})
			for _, what := range wrong {
				s.fail("%s", what)
			}
		})
	}
	rows.Wait()
	s.forged(targets)
}

// The ports that packets of forged sources come from.
const firstForgedPort, forgedPorts = 55500, 20

// forged has the neighbour send in the name of others, and listens on host a for what gets through: packets that are
// forwarded, or answered by who was reached.
func (s *suite) forged(targets []target) {
	a := s.hosts[0]
	var sources []netip.Addr
	for _, container := range []string{"client", "other"} {
		addr, err := a.addr(container)
		if err != nil {
			s.fail("%v", err)
			return
		}
		sources = append(sources, addr)
	}
	// An address of a host that may come, one of the pool, one of the sandbox's link.
	sources = append(sources, netip.MustParseAddr("10.244.200.9"), s.vip, netip.MustParseAddr("169.254.83.1"))
	args := []string{"reach", "--timeout", "1s"}
	var tried []target
	for _, t := range targets {
		if forgery.may[t.kind] == closed {
			tried = append(tried, t)
			args = append(args, t.url)
		}
	}
	if len(tried) > forgedPorts {
		s.fail("%d targets for %d ports: there are too few", len(tried), forgedPorts)
		return
	}
	a.must("systemd-run -q --unit capture sh -c 'exec tcpdump -i any -n -l -U \"portrange %d-%d\" >/run/capture 2>/run/capture.log'",
		firstForgedPort, firstForgedPort+forgedPorts-1)
	defer a.must("systemctl stop capture; rm -f /run/capture /run/capture.log")
	s.holds("tcpdump listens", func() error { _, err := a.run("grep -q listening /run/capture.log"); return err })
	for _, source := range sources {
		own := source.String() + "/32"
		if _, err := s.neighbour("ip", "addr", "add", own, "dev", "lo"); err != nil {
			s.fail("%v", err)
			return
		}
		// In the neighbour's table of local addresses it is not to be found as a target.
		if _, err := s.neighbour(append([]string{whoami(), args[0], args[1], args[2], "--from", fmt.Sprintf("%v:%d", source, firstForgedPort)}, args[3:]...)...); err != nil {
			s.fail("%v", err)
		}
		if _, err := s.neighbour("ip", "addr", "del", own, "dev", "lo"); err != nil {
			s.fail("%v", err)
		}
	}
	captured := a.must("cat /run/capture")
	if !strings.Contains(captured, " In ") {
		s.fail("nothing that the neighbour sent under another's address came to host a: this proves nothing")
	}
	for _, source := range sources {
		for i, t := range tried {
			if line := through(captured, fmt.Sprintf("%v.%d", source, firstForgedPort+i)); line != "" {
				s.fail("a stranger who sends as %v reaches %s (%s): %s", source, t.kind, t.url, line)
			}
		}
	}
}
