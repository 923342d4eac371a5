//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
)

// userEtcd is an etcd outside the cluster, which speaks TLS to clients with a certificate of its user's CA.
type userEtcd struct {
	t       *testing.T
	on      *lab.Machine
	process *lab.Process
}

func startUserEtcd(t *testing.T, on *lab.Machine) *userEtcd {
	t.Helper()
	e := &userEtcd{t: t, on: on}
	e.issue()
	e.start()
	t.Cleanup(func() { _ = e.process.Signal(syscall.SIGKILL) })
	return e
}

func (e *userEtcd) endpoint() string        { return e.on.Addr().String() + ":2379" }
func (e *userEtcd) file(name string) string { return filepath.Join(e.on.Dir(), "etcd-"+name) }

func (e *userEtcd) start() {
	e.t.Helper()
	e.process = e.on.Start("etcd", "-dir", e.file("data"), "-listen", e.endpoint(),
		"-ca", e.file("ca.crt"), "-cert", e.file("server.crt"), "-key", e.file("server.key"))
}

func (e *userEtcd) stop() {
	e.t.Helper()
	if err := e.process.Signal(syscall.SIGKILL); err != nil {
		e.t.Fatal(err)
	}
	_ = e.process.Wait(waitLimit) // "signal: killed"
}

// server are the arguments by which an agent knows the etcd, client those by which it is known there.
func (e *userEtcd) server() []string {
	return []string{"--etcd", "https://" + e.endpoint(), "--etcd-ca", e.file("ca.crt")}
}

func (e *userEtcd) client() []string {
	return []string{"--etcd-cert", e.file("client.crt"), "--etcd-key", e.file("client.key")}
}

// issue makes the user's CA, and by it the certificates of the server and of its clients.
func (e *userEtcd) issue() {
	e.t.Helper()
	var ca x509.Certificate
	var caKey *ecdsa.PrivateKey
	issue := func(name string, c x509.Certificate) {
		e.t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			e.t.Fatal(err)
		}
		c.Subject = pkix.Name{CommonName: name}
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		if c.IsCA {
			ca, caKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, &c, &ca, key.Public(), caKey)
		if err != nil {
			e.t.Fatal(err)
		}
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			e.t.Fatal(err)
		}
		if err := errors.Join(
			os.WriteFile(e.file(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644),
			os.WriteFile(e.file(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
		); err != nil {
			e.t.Fatal(err)
		}
	}
	issue("ca", x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	issue("server", x509.Certificate{SerialNumber: big.NewInt(2), IPAddresses: []net.IP{e.on.Addr().AsSlice()},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	issue("client", x509.Certificate{SerialNumber: big.NewInt(3),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// TestHostsShareAnEtcdOfTheirOwner: with an etcd of one's own, hosts are a cluster by knowing it, and go on without it;
// whichever host is lost, others come.
func TestHostsShareAnEtcdOfTheirOwner(t *testing.T) {
	l := shared.With(t)
	etcd := startUserEtcd(t, l.Outside())
	m := &members{t: t, outside: l.Outside()}
	var all []*host
	for _, h := range l.Hosts("e1", "e2", "e3") {
		all = append(all, &host{h, t})
	}
	a, b, c := all[0], all[1], all[2]
	join := func(h *host) {
		t.Helper()
		h.StartAgent(append(etcd.server(), etcd.client()...)...)
		t.Cleanup(func() { h.KillAgent(syscall.SIGTERM) })
	}
	serve := func(service string, by ...string) { // by VIP and by name, and on each host's port
		t.Helper()
		m.served(service, by...)
		for i, h := range m.hosts {
			next := m.hosts[(i+1)%len(m.hosts)]
			h.answered(fmt.Sprintf("http://%v:8000/", next.Addr()), by...)
			name := h.client().load("--count", fmt.Sprint(2*len(by)), "http://"+service+".mesh.internal:8000/")
			if name.Failed > 0 || len(name.Hostnames) != len(by) {
				t.Errorf("%s, by name: answered by %v, %d failed: %v", h.Name(), name.Hostnames, name.Failed, name.Errors)
			}
		}
	}

	stranger := c.startStranger(etcd.server()...)
	join(a)
	join(b)
	m.hosts = []*host{a, b}
	t.Cleanup(func() {
		for _, h := range all {
			h.clear()
		}
	})
	m.settled()
	tasks := m.tasks("web", "-l shoal.publish=8000:8000")
	serve("web", "web-e1", "web-e2")
	stranger.refused()
	if nodes := a.Shoal("nodes"); strings.Contains(nodes, "e3") {
		t.Errorf("a host without a certificate is there:\n%s", nodes)
	}
	if _, err := a.TryShoal("token", "create"); err == nil || !strings.Contains(err.Error(), "--etcd") {
		t.Errorf("how others join is not told: %v", err)
	}

	vip := a.vip("web")
	m.loses(b, "web", tasks)
	m.onlyOneHasAPort()
	b.RestartAgent()
	m.settled()
	m.served("web", "web-e1", "web-e2")

	etcd.stop()
	a.Docker("rm", "-f", "web-e1")
	a.answered(a.web("web"), "web-e2")
	b.RestartAgent()
	b.run("late-e2", "--network mesh -l shoal.service=web -l shoal.publish=8000:8000")
	b.rotation("web", waitLimit, "web-e2", "late-e2") // the other host tells it that its task is gone

	etcd.start()
	m.served("web", "web-e2", "late-e2")
	if now := b.vip("web"); now != vip {
		t.Errorf("web has the VIP %s, and had %s", now, vip)
	}

	// The host that made the cluster is gone for good.
	a.CutOff()
	t.Cleanup(a.Reconnect)
	lab.Eventually(t, waitLimit, "e1 is forgotten", func() error {
		_, err := b.TryShoal("node", "rm", "e1") // refused while e1 seems alive
		return err
	})
	join(c)
	m.hosts = []*host{b, c}
	m.settled()
	if nodes := c.Shoal("nodes"); strings.Contains(nodes, "e1") {
		t.Errorf("a host that was removed is there:\n%s", nodes)
	}
	c.run("web-e3", "--network mesh -l shoal.service=web -l shoal.publish=8000:8000")
	serve("web", "web-e2", "late-e2", "web-e3")
}

// stranger is an agent that the etcd does not let in.
type stranger struct {
	*lab.Process
	t *testing.T
}

func (h *host) startStranger(args ...string) stranger {
	h.t.Helper()
	dir := filepath.Join(h.Dir(), "stranger")
	p := h.Start(append([]string{"shoal", "agent", "--node", h.Name(), "--state-dir", filepath.Join(dir, "state"),
		"--run-dir", filepath.Join(dir, "run"), "--docker-host", "unix://" + h.DockerSocket()}, args...)...)
	h.t.Cleanup(func() { _ = p.Signal(syscall.SIGKILL) })
	return stranger{p, h.t}
}

// refused waits until the agent has said that it was not let in, and ends it.
func (s stranger) refused() {
	s.t.Helper()
	lab.Eventually(s.t, waitLimit, "the agent without a certificate says so", func() error {
		if out := s.Output(); !strings.Contains(out, "no identity yet") || !strings.Contains(out, "certificate required") {
			return errors.New(out)
		}
		return nil
	})
	if err := s.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	if err := s.Wait(waitLimit); err != nil { // it ends well, as any agent does that is told to
		s.t.Errorf("the agent that waited for the etcd: %v", err)
	}
}
