//go:build e2e

package e2e

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
)

// TestHostsAHostIsReplaced: of three hosts that serve the store one is replaced, as docs/operations.md tells. Once it is
// removed, the others refuse its certificate, and have nothing of it any more: no task, name, route nor vote. Another one joins in
// its place, serves, and gets the vote; the host itself joins as a new one once its disk is empty. No request from outside fails meanwhile.
func TestHostsAHostIsReplaced(t *testing.T) {
	l := shared.With(t)
	m := &members{t: t, outside: l.Outside()}
	args := []string{"--servers", "auto"}
	for _, h := range l.Cluster([]string{"p1", "p2", "p3"}, args...) {
		m.hosts = append(m.hosts, &host{h, t})
	}
	first, second, old := m.hosts[0], m.hosts[1], m.hosts[2]
	fresh := &host{l.Host("p4"), t}
	everyone := []*host{first, second, old, fresh}
	t.Cleanup(func() {
		for _, h := range everyone {
			if _, err := h.TryShoal("status"); code(err) < 2 {
				h.KillAgent(syscall.SIGTERM)
			}
		}
	})
	t.Cleanup(func() { (&members{t: t, hosts: everyone}).clear() })
	for _, h := range m.hosts {
		first.hasRole(h.Name(), "server")
	}
	tasks := m.tasks("web", "-l shoal.publish=8130:8000")
	vip, lost := first.vip("web"), old.meshSubnet()
	for _, h := range m.hosts {
		h.balances("web", tasks)
	}

	certificate, err := tls.LoadX509KeyPair(filepath.Join(old.Dir(), "state", "cluster", "node.crt"), filepath.Join(old.Dir(), "state", "cluster", "node.key"))
	if err != nil {
		t.Fatal(err)
	}
	// Who is at an address of the cluster reaches these ports: it is by the certificate that they take or refuse.
	paths := map[uint16]string{7947: "/v1/hello", 2379: "/version"}
	for port, path := range paths {
		for server, from := range map[*host]*host{first: second, second: first} {
			if err := withCertificate(from, netip.AddrPortFrom(server.Addr(), port), path, certificate); err != nil {
				t.Fatalf("with the certificate of p3, port %d of %s, before it is removed: %v", port, server.Name(), err)
			}
		}
	}
	refused := func() {
		t.Helper()
		for port, path := range paths {
			for server, from := range map[*host]*host{first: second, second: first} {
				lab.Eventually(t, waitLimit, fmt.Sprintf("port %d of %s refuses the certificate of p3", port, server.Name()), func() error {
					err := withCertificate(from, netip.AddrPortFrom(server.Addr(), port), path, certificate)
					if err == nil || !strings.Contains(err.Error(), "bad certificate") && !strings.Contains(err.Error(), "EOF") && !errors.Is(err, syscall.ECONNRESET) {
						return fmt.Errorf("it is %w", errors.Join(err, errors.New("not refused")))
					}
					return nil
				})
			}
		}
	}

	load := m.outside.Load("--timeout", "5s", fmt.Sprintf("http://%v:8130/", first.Addr()))
	load.Await(10)
	if _, err := first.TryShoal("node", "rm", "p3"); err == nil || !strings.Contains(err.Error(), "it is alive; stop its agent first") {
		t.Errorf("a host that is alive is removed: %v", err)
	}
	old.KillAgent(syscall.SIGTERM)
	for _, h := range []*host{first, second} {
		h.balances("web", tasks) // the host is up, and its task
	}
	lab.Eventually(t, waitLimit, "p3 is removed", func() error {
		_, err := first.TryShoal("node", "rm", "p3") // refused while its agent may come back
		return err
	})
	rest := maps.Clone(tasks)
	delete(rest, "web-p3")
	for _, h := range []*host{first, second} {
		h.task("web-p3", "")
		h.balances("web", rest)
		lab.Eventually(t, waitLimit, h.Name()+" has nothing of p3", func() error {
			nodes, err := h.TryShoal("nodes")
			if err == nil && (strings.Contains(nodes, "p3") || strings.Count(nodes, " server ") != 2) {
				err = fmt.Errorf("shoal nodes prints\n%s", nodes)
			}
			routes, rerr := h.TryExec("ip", "route", "show", lost)
			if rerr == nil && routes != "" {
				rerr = fmt.Errorf("it has the route %s", routes)
			}
			return errors.Join(err, rerr)
		})
		h.answered("http://"+vip+":8000/", "web-p1", "web-p2")
	}
	refused()
	old.Docker("rm", "-f", "web-p3")

	// The new one.
	fresh.StartAgent(append(first.Invitation(), args...)...)
	m.hosts = []*host{first, second, fresh}
	m.settled()
	first.hasRole("p4", "server")
	rest["web-p4"] = fresh.run("web-p4", "--network mesh -l shoal.service=web -l shoal.publish=8130:8000")
	for _, h := range m.hosts {
		h.balances("web", rest)
		h.answered("http://"+vip+":8000/", "web-p1", "web-p2", "web-p4")
	}
	m.answersOutside(fresh, 8130, "web-p1", "web-p2", "web-p4")

	// The removed one is told, and comes back by the same name and address, as a new host.
	old.StartAgent(args...)
	if why := old.listed("host-removed", "p3", "p3"); !strings.Contains(why, "join again with a new token") {
		t.Errorf("the removed host says: %s", why)
	}
	if nodes := first.Shoal("nodes"); strings.Contains(nodes, "p3") {
		t.Errorf("an agent that starts again is in the cluster:\n%s", nodes)
	}
	old.KillAgent(syscall.SIGTERM)
	if err := os.RemoveAll(filepath.Join(old.Dir(), "state")); err != nil {
		t.Fatal(err)
	}
	old.StartAgent(append(first.Invitation(), args...)...)
	m.hosts = everyone
	m.settled()
	rest["web-p3"] = old.run("web-p3", "--network mesh -l shoal.service=web -l shoal.publish=8130:8000")
	for _, h := range m.hosts {
		h.balances("web", rest)
		h.answered("http://"+vip+":8000/", slices.Sorted(maps.Keys(rest))...)
	}
	refused() // the former one, still
	if s := load.Stop(); s.Failed > 0 || s.Sent < 100 {
		t.Errorf("%d of %d requests from outside failed: %v", s.Failed, s.Sent, s.Errors)
	}
}

// withCertificate makes a request from a host by a certificate that it need not have itself, and tells why that is not answered.
func withCertificate(from *host, server netip.AddrPort, path string, certificate tls.Certificate) error {
	return inNetns(from.Netns(), func() error {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", server.String(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{certificate}})
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err // by TLS 1.3 the refusal comes after the handshake
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if r.StatusCode >= 300 {
			return fmt.Errorf("%s is answered with %s", path, r.Status)
		}
		return nil
	})
}
