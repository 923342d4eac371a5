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
	"time"

	"shoal/lab"
)

// trouble is a case of those that fill the trackers of Docker, Swarm and Traefik: a container is not reached. Shoal is
// asked why, and has to name cause and remedy; the remedy is followed, and the container is reached.
type trouble struct {
	name  string
	setUp func(c *site)
	ask   string   // the command of shoal, on n1; "": nothing has to be done, it works
	says  []string // the cause
	do    []string // the remedy
	mend  func(c *site)
	works func(c *site) error // on n1; nil: the service of the case's name is answered, at its VIP's port 8000
}

// site is a case's place: n1, where shoal is asked, n2, where most tasks are, and n3, which a case may take from the others.
type site struct {
	t          *testing.T
	n1, n2, n3 *host
}

// again makes a container anew.
func (h *host) again(name, options string, command ...string) container {
	h.t.Helper()
	h.Docker("rm", "-f", name)
	return h.run(name, options, command...)
}

// label are the options of a task on the mesh's network.
func label(service, more string) string {
	return "--network mesh -l shoal.service=" + service + " " + more
}

// file makes a file in a container, whether it runs or not.
func (h *host) file(container, path string) {
	h.t.Helper()
	from := filepath.Join(h.Dir(), "empty")
	if err := os.WriteFile(from, nil, 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.Docker("cp", from, container+":"+path)
}

func httpd(at string) []string { return []string{"httpd", "-f", "-p", at, "-h", "/etc"} }

// troubles are tried side by side.
var troubles = []trouble{
	{
		name:  "port",
		setUp: func(c *site) { c.n2.run("port", label("port", "-l shoal.ports=80:80")) },
		ask:   "explain port", says: []string{"port 80: nothing listens", "listens on 8000/tcp"}, do: []string{"use shoal.ports=80:8000"},
		mend:  func(c *site) { c.n2.again("port", label("port", "-l shoal.ports=80:8000")) },
		works: at("http://VIP/"),
	},
	{
		name:  "pubport",
		setUp: func(c *site) { c.n2.run("pubport", label("pubport", "-l shoal.publish=9301:80")) },
		ask:   "explain :9301", says: []string{"published port 9301, which is the task's 80: nothing listens", "listens on 8000/tcp"}, do: []string{"use shoal.publish=9301:8000"},
		mend:  func(c *site) { c.n2.again("pubport", label("pubport", "-l shoal.publish=9301:8000")) },
		works: at("http://N1:9301/"),
	},
	{
		name:  "anyport",
		setUp: func(c *site) { c.n2.run("anyport", label("anyport", "")) },
		ask:   "trace http://anyport/", says: []string{"port 80: nothing listens", "listens on 8000/tcp"}, do: []string{"use shoal.ports=80:8000"},
		mend:  func(c *site) { c.n2.again("anyport", label("anyport", "-l shoal.ports=80:8000")) },
		works: at("http://VIP/"),
	},
	{
		name: "loopback",
		setUp: func(c *site) {
			c.n2.run("loopback", label("loopback", "-l shoal.ports=80:8000"), httpd("127.0.0.1:8000")...)
		},
		ask: "explain default/loopback", says: []string{"port 80", "127.0.0.1:8000 only"}, do: []string{"listen on 0.0.0.0:8000"},
		mend: func(c *site) {
			c.n2.again("loopback", label("loopback", "-l shoal.ports=80:8000"), httpd("0.0.0.0:8000")...)
		},
		works: func(c *site) error { return reaches(c, "http://"+c.n1.vip("loopback")+"/passwd") },
	},
	{
		name:  "bridged",
		setUp: func(c *site) { c.n2.run("bridged", "-l shoal.service=bridged") },
		ask:   "explain bridged.default", says: []string{"only its own host reaches"}, do: []string{"--network mesh"},
		mend: func(c *site) { c.n2.again("bridged", label("bridged", "")) },
	},
	{
		name: "networks",
		setUp: func(c *site) {
			c.n2.Docker("create", "--name", "networks", "--hostname", "networks", "--network", "mesh", "-l", "shoal.service=networks", lab.Image)
			c.n2.Docker("network", "connect", "bridge", "networks")
			c.n2.Docker("start", "networks")
		},
		ask: "explain networks", says: []string{"on several networks (bridge, mesh)"}, do: []string{"with its labels right"},
		mend: func(c *site) {
			c.n2.Docker("rm", "-f", "networks")
			c.n2.Docker("create", "--name", "networks", "--hostname", "networks", "--network", "mesh", "-l", "shoal.service=networks", "-l", "shoal.network=mesh", lab.Image)
			c.n2.Docker("network", "connect", "bridge", "networks")
			c.n2.Docker("start", "networks")
		},
	},
	{
		name: "unhealthy",
		setUp: func(c *site) {
			c.n2.runArgs("unhealthy", "-l", "shoal.service=unhealthy", "--health-interval", "1s", "--health-retries", "1",
				"--health-cmd", "test -e /ok || { echo no database; exit 3; }")
		},
		ask: "explain unhealthy", says: []string{"HEALTHCHECK failed", "exit code 3", "no database"}, do: []string{"mend what the check says"},
		mend: func(c *site) { c.n2.file("unhealthy", "/ok") },
	},
	{
		name: "starting",
		setUp: func(c *site) {
			c.n2.runArgs("starting", "-l", "shoal.service=starting", "--health-interval", "1s", "--health-retries", "1000", "--health-start-period", "1h",
				"--health-cmd", "test -e /ok || { echo still loading; exit 1; }")
		},
		ask: "explain starting", says: []string{"HEALTHCHECK has not passed yet", "still loading"}, do: []string{"wait until it passes"},
		mend: func(c *site) { c.n2.file("starting", "/ok") },
	},
	{
		name: "crashing",
		setUp: func(c *site) {
			c.n2.run("crashing", label("crashing", "--restart always"), "sh", "-c", "[ -e /ok ] && exec whoami serve; exit 3")
		},
		ask: "explain crashing", says: []string{"crashes", "exit code 3"}, do: []string{"docker logs crashing"},
		mend: func(c *site) { c.n2.file("crashing", "/ok") },
	},
	{
		name: "exited",
		setUp: func(c *site) {
			c.n2.run("exited", label("exited", ""), "sh", "-c", "[ -e /ok ] && exec whoami serve; exit 0")
		},
		ask: "explain exited", says: []string{"does not run", "exit code 0"}, do: []string{"docker start exited"},
		mend: func(c *site) { c.n2.file("exited", "/ok"); c.n2.Docker("start", "exited") },
	},
	{
		name:  "paused",
		setUp: func(c *site) { c.n2.run("paused", label("paused", "")); c.n2.pause("paused") },
		ask:   "explain paused", says: []string{"paused since"}, do: []string{"docker unpause paused"},
		mend: func(c *site) { c.n2.Docker("unpause", "paused") },
	},
	{
		name:  "typo",
		setUp: func(c *site) { c.n2.run("mistyped", "--network mesh -l shoal.sevice=typo") },
		ask:   "explain typo", says: []string{"mistyped on n2", "did you mean shoal.service"}, do: []string{"labels right"},
		mend: func(c *site) { c.n2.again("mistyped", label("typo", "--hostname typo")) },
	},
	{
		name:  "unlabelled",
		setUp: func(c *site) { c.n2.run("unlabelled", "--network mesh -l com.docker.compose.service=unlabelled") },
		ask:   "trace unlabelled", says: []string{"has no label shoal.service"}, do: []string{"shoal.service="},
		mend: func(c *site) { c.n2.again("unlabelled", label("unlabelled", "")) },
	},
	{
		name: "claimed",
		setUp: func(c *site) {
			c.n2.run("holder", label("holder", "-l shoal.publish=9309:8000"))
			c.n1.published(9309, "default/holder")
			c.n2.run("claimed", label("claimed", "-l shoal.publish=9309:8000"))
		},
		ask: "explain claimed", says: []string{"9309/tcp", "already claimed by default/holder"}, do: []string{"publish another port"},
		mend:  func(c *site) { c.n2.again("claimed", label("claimed", "-l shoal.publish=9310:8000")) },
		works: at("http://N1:9310/"),
	},
	{
		name: "process",
		setUp: func(c *site) {
			c.n2.run("process", label("process", "-l shoal.publish=9311:8000"))
			c.n1.published(9311, "default/process")
			c.n1.Start("sh", "-c", "echo $$ > "+filepath.Join(c.n1.Dir(), "process.pid")+"; exec whoami serve --http 9311") // later
		},
		ask: "explain :9311", says: []string{"9311/tcp", "whoami (pid", "listens on"}, do: []string{"stop what has the port"},
		mend:  func(c *site) { c.n1.Exec("sh", "-c", "kill $(cat "+filepath.Join(c.n1.Dir(), "process.pid")+")") },
		works: at("http://N1:9311/"),
	},
	{
		name: "dockerport",
		setUp: func(c *site) {
			c.n2.run("dockerport", label("dockerport", "-l shoal.publish=9312:8000"))
			c.n1.published(9312, "default/dockerport")
			c.n1.run("dashp", "-p 9312:8000") // later
		},
		ask: "trace n1:9312", says: []string{"9312/tcp", "docker-proxy"}, do: []string{"stop what has the port"},
		mend:  func(c *site) { c.n1.Docker("rm", "-f", "dashp") },
		works: at("http://N1:9312/"),
	},
	{
		name: "nodns",
		setUp: func(c *site) {
			c.n2.run("nodns", label("nodns", ""))
			c.n1.run("nodns-client", "", "sleep", "1000000")
		},
		ask: "trace --from nodns-client nodns", says: []string{"does not ask shoal"}, do: []string{"--dns 10.96.0.10"},
		mend:  func(c *site) { c.n1.again("nodns-client", useDNS, "sleep", "1000000") },
		works: from("nodns-client", "http://nodns:8000/"),
	},
	{
		name: "composed",
		setUp: func(c *site) {
			c.n1.Docker("network", "create", "shopnet")
			c.n1.run("composed", "--network shopnet --network-alias composed -l shoal.service=composed")
			c.n1.run("composed-client", "--network shopnet --dns "+dnsServer, "sleep", "1000000")
		},
		ask: "trace --from composed-client composed", says: []string{"Docker's own resolver answers"}, do: []string{"--dns-search mesh.internal --dns-opt ndots:1"},
		mend:  func(c *site) { c.n1.again("composed-client", "--network shopnet "+useDNS, "sleep", "1000000") },
		works: func(c *site) error { return passes(c, "trace --from composed-client composed") },
	},
	{
		name: "hostsfile",
		setUp: func(c *site) {
			c.n2.run("hostsfile", label("hostsfile", ""))
			c.n1.run("hosts-client", useDNS+" --add-host hostsfile:192.0.2.7", "sleep", "1000000")
		},
		ask: "trace --from hosts-client hostsfile", says: []string{"in its own /etc/hosts", "192.0.2.7"}, do: []string{"ask for hostsfile.mesh.internal"},
		mend:  func(*site) {},
		works: from("hosts-client", "http://hostsfile.mesh.internal:8000/"),
	},
	{
		name: "noroute",
		setUp: func(c *site) {
			c.n2.run("noroute", label("noroute", ""))
			c.n1.Docker("network", "create", "insidenet")
			c.n1.run("inside-client", "--network insidenet "+useDNS, "sleep", "1000000").execFrom("ip", "route", "del", "default")
		},
		ask: "trace --from inside-client noroute", says: []string{"has no route"}, do: []string{"start it anew with --network mesh"},
		mend:  func(c *site) { c.n1.again("inside-client", "--network mesh "+useDNS, "sleep", "1000000") },
		works: from("inside-client", "http://noroute.mesh.internal:8000/"),
	},
	{
		name: "stacks",
		setUp: func(c *site) {
			c.n2.run("stacks", label("stacks", "-l shoal.stack=sa"))
			c.n2.run("stacks-b", label("stacks", "-l shoal.stack=sb"))
		},
		ask: "explain stacks", says: []string{"several stacks (sa/stacks, sb/stacks)"}, do: []string{"stack/name"},
		mend: func(*site) {},
		works: func(c *site) error {
			return errors.Join(passes(c, "explain sa/stacks"), passes(c, "explain stacks.sb"))
		},
	},
	{
		name: "protocol",
		setUp: func(c *site) {
			c.n2.run("protocol", label("protocol", "-l shoal.publish=9316:9000/udp"), everything(c.t)...)
		},
		ask: "trace n1:9316", says: []string{"9316/tcp is published by no service", "publishes 9316/udp"}, do: []string{"ask by udp"},
		mend: func(*site) {},
		works: func(c *site) error {
			return errors.Join(reaches(c, fmt.Sprintf("udp://%v:9316", c.n1.Addr())), passes(c, "trace n1:9316/udp"))
		},
	},
	{
		name: "udplabel",
		setUp: func(c *site) {
			c.n2.run("udplabel", label("udplabel", "-l shoal.ports=9000"), "whoami", "serve", "--udp", "9000")
		},
		ask: "explain udplabel", says: []string{"nothing listens on 9000/tcp", "listens on 9000/udp"}, do: []string{"shoal.ports=9000:9000/udp"},
		mend: func(c *site) {
			c.n2.again("udplabel", label("udplabel", "-l shoal.ports=9000:9000/udp"), "whoami", "serve", "--udp", "9000")
		},
		works: func(c *site) error { return reaches(c, "udp://"+c.n1.vip("udplabel")+":9000") },
	},
	{
		name:  "ipv6",
		setUp: func(c *site) { c.n2.run("ipv6", label("ipv6", "")) },
		ask:   "trace --from fd00::9 ipv6", says: []string{"IPv4 alone"}, do: []string{"have it connect by IPv4"},
		mend: func(*site) {},
	},
	{
		name:  "oneaddr",
		setUp: func(c *site) { c.n2.run("oneaddr", label("oneaddr", "-l shoal.publish=127.0.0.1:9321:8000")) },
		ask:   "trace n2:9321", says: []string{"it is not taken on"}, do: []string{"shoal.publish=9321:"},
		mend:  func(c *site) { c.n2.again("oneaddr", label("oneaddr", "-l shoal.publish=9321:8000")) },
		works: at("http://N2:9321/"),
	},
	{
		name: "v6only",
		setUp: func(c *site) {
			c.n2.run("v6only", label("v6only", ""))
			c.n1.Docker("network", "create", "v6net")
			client := c.n1.run("v6-client", "--network v6net "+useDNS, "sleep", "1000000")
			client.execFrom("ip", "addr", "flush", "dev", "eth0", "scope", "global")
			client.execFrom("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6; ip addr add fd00:7::7/64 dev eth0 nodad || true") // the machine may have no IPv6
		},
		ask: "trace --from v6-client v6only", says: []string{"v6-client has no IPv4 address"}, do: []string{"start it anew with --network mesh"},
		mend:  func(c *site) { c.n1.again("v6-client", "--network mesh "+useDNS, "sleep", "1000000") },
		works: from("v6-client", "http://v6only:8000/"),
	},
	{
		name: "firewalled",
		setUp: func(c *site) {
			task := c.n2.run("firewalled", label("firewalled", "-l shoal.ports=8000"))
			c.n2.Exec("nft", "add table ip someones; add chain ip someones fw { type filter hook forward priority 10; }; "+
				"add rule ip someones fw ip daddr "+task.addr()+" drop")
		},
		ask: "trace http://firewalled:8000/", says: []string{"the chain fw of the table ip someones drops tcp"}, do: []string{"nft insert rule ip someones fw"},
		mend: func(c *site) {
			out, _ := c.n1.TryShoal("trace", "http://firewalled:8000/")
			_, rule, _ := strings.Cut(out, "nft insert rule ")
			rule, _, _ = strings.Cut(rule, ", and keep")
			c.n2.Exec("nft", "insert rule "+strings.Join(strings.Fields(rule), " "))
		},
	},
	{
		name: "iptables", // in front of whose rules the mesh's stand, so that they drop nothing of it
		setUp: func(c *site) {
			task := c.n2.run("iptables", label("iptables", ""))
			c.n2.Exec("iptables", "-I", "FORWARD", "-d", task.addr(), "-j", "DROP")
		},
	},
	{
		name:  "weightless",
		setUp: func(c *site) { c.n2.run("weightless", label("weightless", "-l shoal.weight=0")) },
		ask:   "explain weightless", says: []string{"weight 0"}, do: []string{"shoal.weight"},
		mend: func(c *site) { c.n2.again("weightless", label("weightless", "-l shoal.weight=1")) },
	},
	{
		name:  "misnamed",
		setUp: func(c *site) { c.n2.run("misnamed", label("misnamed", "")) },
		ask:   "explain misnaned", says: []string{"no service, container or address"}, do: []string{"did you mean default/misnamed?"},
		mend: func(*site) {},
	},
}

// hostTroubles are those of a host as a whole, or of the network between hosts: one is tried after the other, when nobody else needs
// the hosts.
var hostTroubles = []trouble{
	{
		name: "deadhost",
		setUp: func(c *site) {
			c.n3.run("deadhost", label("deadhost", ""))
			c.n1.answered(c.n1.web("deadhost"), "deadhost")
			c.n3.KillAgent(syscall.SIGKILL)
			c.n3.CutOff()
			c.t.Cleanup(c.n3.Reconnect)
			if reason := c.n1.listed("host-dead", "n3", "n3"); !strings.Contains(reason, "start it, or see to the network between") {
				c.t.Errorf("the problem of the host says %q", reason)
			}
		},
		ask: "explain deadhost", says: []string{"its host n3 is considered dead since"}, do: []string{"start host n3 and its agent again, or see that TCP and UDP 7946 pass"},
		mend: func(c *site) {
			c.n3.Reconnect()
			c.n3.Skew(0) // for the case of the clock
			c.n3.StartAgent(clusterArgs...)
		},
	},
	{
		name:  "clock",
		setUp: func(c *site) { c.n3.Skew(-90 * time.Second); c.t.Cleanup(func() { c.n3.Skew(0) }) },
		ask:   "problems", says: []string{"clock-skew", "behind most hosts' clocks"}, do: []string{"timedatectl set-ntp true"},
		mend: func(c *site) { c.n3.Skew(0) },
		works: func(c *site) error {
			if out, err := c.n1.TryShoal("problems"); err != nil || strings.Contains(out, "clock-skew") {
				return fmt.Errorf("%s %w", out, err)
			}
			return nil
		},
	},
	{
		name: "blackhole",
		setUp: func(c *site) {
			c.n2.run("blackhole", label("blackhole", ""))
			lab.Eventually(c.t, waitLimit, "all of it is had", func() error { return large(c) })
			c.t.Cleanup(c.n2.Narrow(1300))
			if err := large(c); err == nil {
				c.t.Error("the network carries what it should lose")
			}
		},
		ask: "explain blackhole", says: []string{"packets to containers on host n2 arrive up to about", "large ones stand still"}, do: []string{"lower the MTU of the network cards that lead to it, on both hosts: ip link set dev DEVICE mtu "},
		mend: func(c *site) {
			out, _ := c.n1.TryShoal("explain", "blackhole")
			_, remedy, _ := strings.Cut(strings.Join(strings.Fields(out), " "), "ip link set dev DEVICE mtu ")
			mtu, _, _ := strings.Cut(remedy, " ")
			for _, h := range []*host{c.n1, c.n2} {
				h.Exec("ip", "link", "set", "dev", "eth0", "mtu", mtu)
				c.t.Cleanup(func() { h.Exec("ip", "link", "set", "dev", "eth0", "mtu", "1500") })
			}
		},
		works: large,
	},
}

// large asks on n1 for what takes many packets.
func large(c *site) error {
	_, err := c.n1.TryExec("timeout", "5", "busybox", "wget", "-qO/dev/null", "http://"+c.n1.vip("blackhole")+":8000/bytes?n=300000")
	return err
}

// runArgs is run for options that have spaces in them, on the mesh's network.
func (h *host) runArgs(name string, options ...string) {
	h.t.Helper()
	h.Docker(append(append([]string{"run", "-d", "--name", name, "--hostname", name, "--network", "mesh"}, options...), lab.Image)...)
}

// published waits until a port is a service's on this host.
func (h *host) published(port int, service string) {
	h.t.Helper()
	lab.Eventually(h.t, waitLimit, fmt.Sprintf("%d is %s's", port, service), func() error {
		out, err := h.TryShoal("explain", fmt.Sprintf(":%d", port))
		if err != nil || !strings.Contains(out, "published by "+service) {
			return fmt.Errorf("%s %w", out, err)
		}
		return nil
	})
}

// reaches makes a request on n1.
func reaches(c *site, url string) error {
	_, err := c.n1.TryExec("whoami", "get", url)
	return err
}

// at makes a request, to a VIP's URL or a host's.
func at(url string) func(*site) error {
	return func(c *site) error {
		name := strings.ToLower(filepath.Base(c.t.Name()))
		full := strings.NewReplacer("N1", c.n1.Addr().String(), "N2", c.n2.Addr().String()).Replace(url)
		if strings.Contains(full, "VIP") {
			full = strings.Replace(full, "VIP", c.n1.vip(name), 1)
		}
		return reaches(c, full)
	}
}

// from makes a request in a container of n1.
func from(name, url string) func(*site) error {
	return func(c *site) error {
		_, err := container{c.n1, name}.tryExec("whoami", "get", url)
		return err
	}
}

// passes asks shoal, which finds nothing wrong.
func passes(c *site, command string) error {
	_, err := c.n1.TryShoal(strings.Fields(command)...)
	return err
}

// told waits until shoal names cause and remedy, and fails.
func (c *site) told(command string, says ...string) {
	c.t.Helper()
	lab.Eventually(c.t, waitLimit, "shoal "+command+" says why, and what to do", func() error {
		out, err := c.n1.TryShoal(strings.Fields(command)...)
		if want := map[bool]int{true: 0, false: 1}[command == "problems"]; code(err) != want {
			return fmt.Errorf("exit code %d: %s", code(err), out)
		}
		for _, s := range says {
			if all := fmt.Sprint(out, err); !strings.Contains(all, s) {
				return fmt.Errorf("it does not say %q: %s", s, all)
			}
		}
		return nil
	})
}

func (one *trouble) try(t *testing.T) {
	c := &site{t, on(t, "n1"), on(t, "n2"), on(t, "n3")}
	one.setUp(c)
	if one.ask != "" {
		c.told(one.ask, append(one.says, one.do...)...)
		one.mend(c)
	}
	works := one.works
	if works == nil {
		works = func(c *site) error { return at("http://VIP:8000/")(c) }
	}
	defer func() {
		for _, command := range []string{one.ask, "tasks", "problems"} {
			if t.Failed() && command != "" {
				out, err := c.n1.TryShoal(strings.Fields(command)...)
				t.Logf("shoal %s: %v\n%s", command, err, out)
			}
		}
	}()
	// The engine pauses for up to a minute before it starts what has crashed again.
	lab.Eventually(t, 3*waitLimit, "it is reached, the remedy followed", func() error { return works(c) })
}

// TestHostsCases has shoal name cause and remedy of each, and follows the remedy.
func TestHostsCases(t *testing.T) {
	cluster(t, "host-gw")
	t.Run("beside", func(t *testing.T) {
		for _, one := range troubles {
			t.Run(one.name, func(t *testing.T) {
				if one.name == "firewalled" {
					lab.Needs(t, "nf_tables")
				}
				t.Parallel()
				one.try(t)
			})
		}
	})
	for _, one := range hostTroubles {
		t.Run(one.name, func(t *testing.T) { one.try(t) })
	}
}
