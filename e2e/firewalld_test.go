//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
)

// startBus starts a D-Bus of the host's own.
func (h *host) startBus() {
	h.t.Helper()
	socket, conf := filepath.Join(h.Dir(), "bus"), filepath.Join(h.Dir(), "bus.conf")
	text := `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=` + socket + `</listen><auth>EXTERNAL</auth><policy context="default"><allow user="*"/><allow own="*"/>
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/></policy></busconfig>`
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	p := h.Start("dbus-daemon", "--nofork", "--config-file="+conf)
	h.t.Cleanup(func() { _ = p.Signal(syscall.SIGKILL) })
	lab.Eventually(h.t, waitLimit, "the bus is there", func() error {
		_, err := os.Stat(socket)
		return err
	})
}

// python runs a program of firewalld's, as Debian has it, without that being installed.
func (h *host) python(program string, args ...string) []string {
	h.t.Helper()
	root, err := filepath.Abs("../bin/firewalld")
	if err != nil {
		h.t.Fatal(err)
	}
	return append([]string{"env", "PYTHONPATH=" + root + "/usr/lib/python3/dist-packages", "/usr/bin/python3", root + "/usr/" + program}, args...)
}

// startFirewalld starts firewalld on the host, as it is configured where nobody has changed anything, until the test ends.
func (h *host) startFirewalld() {
	h.t.Helper()
	own := filepath.Join(h.Dir(), "firewalld")
	h.Exec("cp", "-a", "../bin/firewalld/etc/firewalld", own)
	p := h.Start(h.python("sbin/firewalld", "--nofork", "--nopid", "--system-config", own, "--default-config", "../bin/firewalld/usr/lib/firewalld",
		"--log-file", filepath.Join(h.Dir(), "firewalld.log"))...)
	h.t.Cleanup(func() {
		_ = p.Signal(syscall.SIGTERM)
		_ = p.Wait(waitLimit)
	})
	lab.Eventually(h.t, waitLimit, "firewalld runs", func() error {
		_, err := h.TryExec(h.python("bin/firewall-cmd", "--state")...)
		return err
	})
}

func (h *host) firewallCmd(args ...string) string {
	h.t.Helper()
	return h.Exec(h.python("bin/firewall-cmd", args...)...)
}

// TestFirewalld: names, VIPs and published ports work where firewalld starts after the engine and the agent, and after it
// has reloaded; it stays closed otherwise, and down leaves nothing with it.
func TestFirewalld(t *testing.T) {
	lab.Needs(t, "nf_tables")
	h := on(t, "f1")
	outside := shared.With(t).Outside()
	h.startBus()
	h.StartAgent()
	t.Cleanup(h.clear)
	stopped := false
	t.Cleanup(func() {
		if !stopped {
			h.KillAgent(syscall.SIGTERM)
		}
		h.TryShoal("down", "--state-dir", filepath.Join(h.Dir(), "state"))
	})
	h.ready()
	subnet := h.meshSubnet()
	task := h.run("web", "--network mesh -l shoal.service=web -l shoal.publish=8080:8000 "+useDNS)
	onMesh := h.run("inside", "--network mesh "+useDNS, "sleep", "1000000")
	onBridge := h.client()
	h.answered(h.web("web"), "web")
	outside.Exec("ip", "route", "add", subnet, "via", h.Addr().String())
	t.Cleanup(func() { outside.TryExec("ip", "route", "del", subnet) })

	published := fmt.Sprintf("http://%v:8080/", h.Addr())
	works := func(when string) {
		t.Helper()
		for who, exec := range map[string]func(...string) (string, error){
			"a container of the mesh": onMesh.tryExec, "a container of another bridge": onBridge.tryExec,
			"the host": h.TryExec, "a client outside": outside.TryExec,
		} {
			url := "http://web.mesh.internal:8000/"
			switch who {
			case "the host":
				url = "http://127.0.0.1:8080/"
			case "a client outside":
				url = published
			}
			lab.Eventually(t, waitLimit, who+" is served "+when, func() error {
				out, err := exec("whoami", "get", "--timeout", "3s", url)
				if err == nil && field(out, "hostname") != "web" {
					err = errors.New(out)
				}
				return err
			})
		}
		if out, err := outside.TryExec("whoami", "get", "--timeout", "1s", "http://"+task.addr()+":8000/"); err == nil {
			t.Errorf("%s a container is open to the link:\n%s", when, out)
		}
	}
	works("without firewalld")
	h.startFirewalld()
	works("when firewalld has started")
	if zones := h.firewallCmd("--get-active-zones"); !strings.Contains(zones, "shoal0") {
		t.Errorf("the active zones are\n%s", zones)
	}
	h.firewallCmd("--reload")
	works("when firewalld has reloaded")
	p := h.Start("whoami", "serve", "--http", "8099")
	t.Cleanup(func() { _ = p.Signal(syscall.SIGKILL) })
	h.answered("http://127.0.0.1:8099/", h.Name())
	if out, err := outside.TryExec("whoami", "get", "--timeout", "1s", fmt.Sprintf("http://%v:8099/", h.Addr())); err == nil {
		t.Errorf("firewalld lets a client outside reach any port:\n%s", out)
	}

	h.clear()
	h.Docker("rm", "-f", clientName)
	h.KillAgent(syscall.SIGTERM)
	stopped = true
	h.Shoal("down", "--state-dir", filepath.Join(h.Dir(), "state"), "--docker-host", "unix://"+h.DockerSocket())
	if left := h.firewallCmd("--get-active-zones") + h.firewallCmd("--get-policies"); strings.Contains(left, "shoal") {
		t.Errorf("after down firewalld has\n%s", left)
	}
}
