//go:build hosts

package hosts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// disturbance is something that people or programs do to a host.
type disturbance struct {
	name  string
	about string
	run   func(s *suite) // does it, and tries what should hold then
}

// disturbances are all steps after the first walk, in their order.
var disturbances = []disturbance{
	{"engine", "engine restarted", engineRestarted},
	{"live-restore", "engine with live-restore restarted", liveRestore},
	{"networkd", "systemd-networkd restarted", networkdRestarted},
	{"firewalld", "firewalld started", firewalldStarted},
	{"reload", "firewalld reloaded, then stopped", firewalldReloaded},
	{"ufw", "ufw enabled", ufwEnabled},
	{"policy-drop", "an nftables table of one's own drops what comes in", policyDrop},
	{"agent", "agent killed", agentKilled},
	{"reboot", "machine rebooted", rebooted},
	{"nftables", "data plane changed to nftables", toNftables},
	{"ipvs", "data plane changed back to IPVS", toIPVS},
	{"watchdog", "agent that hangs", agentHangs},
	{"packages", "package upgraded; on the last host, purged", packages},
}

// all tries walk and table.
func (s *suite) all() {
	s.walk()
	s.whoReachesWhat()
}

func engineRestarted(s *suite) {
	s.each(func(h *host) { h.must("systemctl restart docker") })
	s.all()
}

// liveRestore has the engine leave its containers alone while it restarts.
func liveRestore(s *suite) {
	s.each(func(h *host) {
		var settings map[string]any
		if err := json.Unmarshal([]byte(h.must("cat /etc/docker/daemon.json")), &settings); err != nil {
			s.fail("daemon.json on %s: %v", h.Name(), err)
			return
		}
		settings["live-restore"] = true
		b, err := json.Marshal(settings)
		if err != nil {
			s.fail("%v", err)
			return
		}
		h.must("printf '%%s' '%s' >/etc/docker/daemon.json && systemctl reload docker", b)
		const started = "docker inspect -f '{{.State.StartedAt}}' web-%s"
		s.holds("live-restore is on", func() error {
			on, err := h.run("docker info -f '{{.LiveRestoreEnabled}}'")
			if err == nil && on != "true" {
				err = fmt.Errorf("it is %q", on)
			}
			return err
		})
		before := h.must(started, h.Name())
		h.must("systemctl restart docker")
		if after := h.must(started, h.Name()); after != before {
			s.fail("web-%s was restarted, so this tried nothing: %s, %s", h.Name(), before, after)
		}
	})
	s.all()
}

func networkdRestarted(s *suite) {
	s.each(func(h *host) { h.must("systemctl restart systemd-networkd") })
	s.all()
}

// startFirewalld starts firewalld, in which the ports between hosts are open, as docs/hosts.md tells its administrator.
const startFirewalld = "firewall-offline-cmd -q --add-port=7946-7947/tcp --add-port=7946/udp --add-port=2379-2380/tcp --add-port=8483/udp && " +
	"systemctl start firewalld"

func firewalldStarted(s *suite) {
	s.each(func(h *host) { h.must(startFirewalld) })
	s.all()
}

func firewalldReloaded(s *suite) {
	s.each(func(h *host) {
		h.must("systemctl is-active -q firewalld || { " + startFirewalld + "; }; firewall-cmd -q --reload")
	})
	s.all()
	s.each(func(h *host) { h.must("systemctl stop firewalld && systemctl restart docker") })
	s.walk()
}

// ufwEnabled has ufw let in ssh, and other hosts to the agents, as docs/hosts.md tells its administrator.
func ufwEnabled(s *suite) {
	s.each(func(h *host) {
		h.must("ufw allow 22/tcp && ufw allow proto tcp from 192.168.77.0/24 to any port 7946,7947,2379,2380 && " +
			"ufw allow proto udp from 192.168.77.0/24 to any port 7946,8483 && ufw --force enable")
	})
	s.all()
	s.each(func(h *host) { h.must("ufw --force disable") })
	s.walk()
}

// policyDrop gives host a a table that lets in ssh, and drops what it does not know. An accept of ours cannot undo that: shoal
// has to name the chain.
func policyDrop(s *suite) {
	a := s.hosts[0]
	a.must(`nft -f - <<'END'
table inet lockdown {
	chain guard {
		type filter hook input priority filter + 5; policy drop;
		ct state established,related accept
		iif lo accept
		iif eth0 tcp dport 22 accept
	}
}
END`)
	s.holds("shoal problems names the chain", func() error {
		out, err := a.run("shoal problems")
		if err == nil && (!strings.Contains(out, "lockdown") || !strings.Contains(out, "guard")) {
			err = errors.New(out)
		}
		return err
	})
	s.holds("shoal explain stops at the chain", func() error {
		out, err := a.run("shoal explain web")
		if err == nil {
			return fmt.Errorf("it says that every step holds:\n%s", out)
		}
		if text := err.Error(); !strings.Contains(text, "lockdown") || !strings.Contains(text, "guard") {
			return err
		}
		return nil
	})
	a.must("nft delete table inet lockdown")
	s.disturbed()
	s.holds("the problem ends with the chain", func() error {
		out, err := a.run("shoal problems")
		if err == nil && strings.Contains(out, "lockdown") {
			err = errors.New(out)
		}
		return err
	})
	s.walk()
}

// agentKilled kills the agent of host a. Nobody notices but who asks for names; systemd starts it again.
func agentKilled(s *suite) {
	a := s.hosts[0]
	main := func() string { return a.must("systemctl show -P MainPID shoal") }
	before := main()
	a.must("systemctl kill -s KILL shoal")
	if err := a.published(); err != nil {
		s.fail("without an agent, the published port: %v", err)
	}
	s.holds("systemd starts it again", func() error {
		if now := main(); now == before || now == "0" {
			return fmt.Errorf("its process is %s, was %s", now, before)
		}
		return nil
	})
	s.all()
}

func rebooted(s *suite) {
	s.each(func(h *host) {
		ctx, cancel := context.WithCancel(s.t.Context())
		defer cancel()
		if err := h.Reboot(ctx); err != nil {
			s.fail("%v", err)
		}
	})
	s.stopIfBroken()
	s.allow(startLimit) // engine and containers start anew
	s.each(func(h *host) { s.holds(h.Name()+" sees every host alive after its boot", h.seesAll) })
	s.all()
}

// stopIfBroken ends the suite where a host did not come back.
func (s *suite) stopIfBroken() {
	for _, h := range s.hosts {
		if _, err := h.run("true"); err != nil {
			s.t.FailNow()
		}
	}
}

// Of each data plane, what tells that something of it is left.
const (
	leftOfIPVS     = "ipset list -n | grep SHOAL; ip netns list | grep shoal; grep FWM /proc/net/ip_vs; iptables-save | grep -E ':SHOAL-(MARK|VIP|IN|FORWARD|TASKS)'"
	leftOfNftables = "nft list tables | grep shoal; iptables-save | grep -E ':SHOAL-PASS'"
)

func toNftables(s *suite) { s.changePlane("nftables", leftOfNftables, leftOfIPVS) }
func toIPVS(s *suite)     { s.changePlane("ipvs", leftOfIPVS, leftOfNftables) }

// changePlane changes the data plane: nothing of the former is left. That there was something is seen first, or is seen of the
// new one: marks that nobody has would prove nothing.
func (s *suite) changePlane(to, own, others string) {
	s.each(func(h *host) { h.takePlane(to) })
	s.all()
	s.each(func(h *host) {
		if out := h.must("(%s) || true", own); out == "" {
			s.fail("%s balances by %s, and nothing of it is found: %s", h.Name(), to, own)
		}
		if out := h.must("(%s) || true", others); out != "" {
			s.fail("of the former data plane is left on %s: %s", h.Name(), out)
		}
	})
}

// takePlane restarts the agent with another data plane.
func (h *host) takePlane(name string) {
	h.s.disturbed()
	h.must("mkdir -p /etc/shoal && touch /etc/shoal/agent.yaml && sed -i /^data-plane:/d /etc/shoal/agent.yaml && "+
		"echo 'data-plane: %s' >>/etc/shoal/agent.yaml && systemctl restart shoal", name)
	h.s.holds(h.Name()+" balances by "+name, func() error {
		out, err := h.run("shoal status -o json || test $? = 1")
		if err != nil {
			return err
		}
		var status struct {
			Plane string `json:"dataPlane"`
		}
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			return err
		}
		if status.Plane != name {
			return fmt.Errorf("it balances by %s", status.Plane)
		}
		return nil
	})
}
