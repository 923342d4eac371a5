//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"shoal/lab"
)

// TestHostsAClientUsesOnePortWithAllHosts: a client keeps its address through each host's published port, and nothing keeps it
// from talking to several hosts from one and the same port of its own: a balancer in front of the hosts does so all the time.
// To the task those connections differ all the same.
func TestHostsAClientUsesOnePortWithAllHosts(t *testing.T) {
	lab.Needs(t, "nf_tables") // IPVS does not keep them apart: docs/data-plane.md
	for _, backend := range []string{"host-gw", "vxlan"} {
		t.Run(backend, func(t *testing.T) {
			m := cluster(t, backend)
			m.hosts[0].run("web-n1", "--network mesh -l shoal.service=web -l shoal.publish=8000:8000")
			m.served("web", "web-n1")
			for _, h := range m.hosts {
				m.answersOutside(h, 8000, "web-n1")
			}
			for port := range 5 {
				m.onePort(42000 + port)
			}
		})
	}
}

// onePort makes connections from a port to port 8000 of every host, and requests on all of them in turn.
func (m *members) onePort(port int) {
	m.t.Helper()
	type kept struct {
		h    *host
		conn net.Conn
		in   *bufio.Reader
	}
	var all []kept
	defer func() {
		for _, k := range all {
			k.conn.Close()
		}
	}()
	for _, h := range m.hosts {
		var conn net.Conn
		err := inNetns(m.outside.Netns(), func() (err error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}, Timeout: 5 * time.Second, Control: reuse}
			conn, err = d.DialContext(context.Background(), "tcp4", fmt.Sprintf("%v:8000", h.Addr()))
			return err
		})
		if err != nil {
			m.t.Errorf("from port %d to %s, with %d connections from it to others: %v", port, h.Name(), len(all), err)
			continue
		}
		all = append(all, kept{h, conn, bufio.NewReader(conn)})
		for _, k := range all {
			if err := askOn(k.conn, k.in, m.outsideAddr(k.h)); err != nil {
				m.t.Errorf("from port %d to %s, with %d connections from it: %v", port, k.h.Name(), len(all), err)
			}
		}
	}
}

// askOn makes a request on a connection, which has to be answered within seconds, by a task that sees the client's address.
func askOn(conn net.Conn, in *bufio.Reader, client string) error {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var body strings.Builder
	if _, err := bufio.NewReader(resp.Body).WriteTo(&body); err != nil {
		return err
	}
	if from, _, _ := strings.Cut(field(body.String(), "client"), ":"); from != client {
		return fmt.Errorf("the task sees the client %s, want %s", from, client)
	}
	return nil
}

// reuse lets several sockets have one port, as long as they are connected to different addresses.
func reuse(_, _ string, c syscall.RawConn) (err error) {
	failed := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	return errors.Join(failed, err)
}
