package preflight

import (
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"shoal/dockerwatch"
	"shoal/managers"
	"shoal/model"
)

// healthy is a host on which nothing is wrong.
func healthy() *Facts {
	return &Facts{
		Root: true, Release: "6.12.41", Distro: Distro{ID: "debian"}, BrNetfilter: true, Cgroup2: true, Tell: true,
		VIPs: netip.MustParsePrefix("10.96.0.0/16"), Containers: model.Pools{netip.MustParsePrefix("10.244.0.0/16")},
		Planes:   []Plane{{Name: "ipvs"}, {Name: "nftables"}},
		Engine:   dockerwatch.EngineInfo{Version: "28.5.2", OS: "Debian GNU/Linux 13 (trixie)", Root: "/var/lib/docker", Cgroup: "2", Firewall: "iptables"},
		IPTables: IPTables{Found: true, Writes: "nf_tables", NFT: true},
	}
}

func TestEachFactIsJudged(t *testing.T) {
	lacks := errors.New("this kernel has no ip_vs")
	stock := managers.NetworkdState{Runs: true, Removes: []string{"ManageForeignRoutes", "ManageForeignRoutingPolicyRules"}}
	for _, tt := range []struct {
		name  string
		is    func(f *Facts)
		check string
		level Level
		says  string // what is found, and the advice
	}{
		{"not root", func(f *Facts) { f.Root = false }, "privileges", Cannot, "not root.*sudo"},
		{"one plane is enough", func(f *Facts) { f.Planes[0].Lacks = lacks }, "kernel", OK, "data plane nftables.*ipvs: this kernel has no ip_vs"},
		{"no plane, RHEL", func(f *Facts) {
			f.Planes[0].Lacks, f.Planes[1].Lacks = lacks, errors.New("no nf_tables")
			f.Distro = Distro{ID: "rocky", Like: []string{"rhel", "centos", "fedora"}}
		}, "kernel", Cannot, "no ip_vs.*no nf_tables.*kernel-modules-extra-6.12.41"},
		{"no plane, Ubuntu", func(f *Facts) {
			f.Planes, f.Distro = []Plane{{"ipvs", lacks}}, Distro{ID: "ubuntu", Like: []string{"debian"}}
		}, "kernel", Cannot, "linux-modules-extra-6.12.41"},
		{"no br_netfilter", func(f *Facts) { f.BrNetfilter = false }, "modules", Warning, "br_netfilter.*linux-image-amd64"},
		{"no engine", func(f *Facts) { f.EngineError = errors.New("connection refused") }, "engine", Warning, "connection refused.*waits"},
		{"rootless", func(f *Facts) { f.Engine.Rootless = true }, "engine", Cannot, "rootless"},
		{"Docker Desktop", func(f *Facts) { f.Engine.OS = "Docker Desktop" }, "engine", Cannot, "Docker Desktop"},
		{"snap", func(f *Facts) { f.Engine.Root = "/var/snap/docker/common/var-lib-docker" }, "engine", Warning, "snap"},
		{"an old engine", func(f *Facts) { f.Engine.Version = "19.03.15" }, "engine", Warning, "19.03.15"},
		{"the oldest engine", func(f *Facts) { f.Engine.Version = "20.10.24+dfsg1" }, "engine", OK, "20.10.24"},
		{"a development version", func(f *Facts) { f.Engine.Version = "dev" }, "engine", OK, "dev"},
		{"Swarm", func(f *Facts) { f.Engine.Swarm = true }, "engine", Warning, "7946"},
		{"an nftables engine with ipvs", func(f *Facts) { f.Engine.Firewall = "nftables" }, "engine", Warning, "--data-plane nftables"},
		{"an nftables engine with nftables", func(f *Facts) { f.Engine.Firewall, f.Planes = "nftables", f.Planes[1:] }, "engine", OK, "firewall nftables"},
		{"both kinds of iptables", func(f *Facts) { f.IPTables.Legacy = true }, "iptables", Warning, "iptables-legacy and iptables-nft"},
		{"no iptables", func(f *Facts) { f.IPTables = IPTables{} }, "iptables", Warning, "install the package iptables"},
		{"no iptables, and none needed", func(f *Facts) { f.IPTables, f.Engine.Firewall, f.Planes = IPTables{}, "nftables", f.Planes[1:] }, "iptables", OK, "needs none"},
		{"firewalld", func(f *Facts) { f.Firewalld = true }, "firewalls", OK, "firewalld runs; the agent"},
		{"a firewall of the user's own", func(f *Facts) { f.Drops = []Chain{{"inet", "mine", "in", "input"}} }, "firewalls", Warning, "chain in of the nftables table inet mine.*nft insert rule inet mine in ip daddr 10.96.0.0/16 accept"},
		{"another of its chains", func(f *Facts) { f.Drops = []Chain{{"ip", "mine", "fwd", "forward"}} }, "firewalls", Warning, "ip mine fwd ip daddr 10.244.0.0/16 accept; .*saddr 10.244.0.0/16 accept"},
		{"ufw", func(f *Facts) { f.UFW = true }, "firewalls", OK, "ufw"},
		{"no address", func(f *Facts) { f.Address = errors.New("name one with --advertise") }, "addresses", Cannot, "--advertise"},
		{"routes that cannot be read", func(f *Facts) { f.OverlapUnknown = []error{errors.New("list routes: dump interrupted")} }, "addresses", Warning, "dump interrupted"},
		{"an overlap", func(f *Facts) { f.Overlap = []error{errors.New("10.96.0.0/16 overlaps 10.0.0.0/8")} }, "addresses", Cannot, "10.0.0.0/8"},
		{"port 53 is taken", func(f *Facts) {
			f.Ports = []Port{{model.UDP, netip.MustParseAddrPort("10.96.0.10:53"), "dnsmasq (pid 612) listens on 0.0.0.0:53", true}}
		}, "ports", Warning, `53/udp is taken: dnsmasq \(pid 612\).*10.96.0.10:53.*bind-interfaces`},
		{"a cluster's port is taken", func(f *Facts) {
			f.Ports = []Port{{model.TCP, netip.MustParseAddrPort("192.0.2.1:2379"), "etcd (pid 9) listens on 0.0.0.0:2379", false}}
		}, "ports", Warning, "2379/tcp is taken.*cluster"},
		{"systemd-networkd, told", func(f *Facts) { f.Networkd = stock }, "systemd-networkd", OK, "agent tells"},
		{"systemd-networkd, not told", func(f *Facts) { f.Networkd, f.Tell = stock, false }, "systemd-networkd", Warning, "ManageForeignRoutes=no and ManageForeignRoutingPolicyRules=no"},
		{"systemd-networkd, whose owner wants it", func(f *Facts) { f.Networkd = stock; f.Networkd.Owner = true }, "systemd-networkd", Warning, "removes"},
		{"systemd-networkd, by its settings", func(f *Facts) { f.Networkd.Runs = true }, "systemd-networkd", OK, "keeps"},
		{"NetworkManager", func(f *Facts) { f.NetworkManager = true }, "NetworkManager", OK, "agent tells"},
		{"NetworkManager, not told", func(f *Facts) { f.NetworkManager, f.Tell = true, false }, "NetworkManager", Warning, "unmanaged-devices"},
		{"control groups", func(f *Facts) { f.Engine.Cgroup, f.Cgroup2 = "", false }, "control groups", OK, "version 1$"},
		{"control groups that lead nobody", func(f *Facts) { f.Unled = errors.New("no hierarchy") }, "control groups", OK, `not led in connect\(\): no hierarchy`},
		{"a small table", func(f *Facts) { f.TableBits, f.TableAdvised = 12, 18 }, "connections", OK, "4096 buckets.*conn_tab_bits=18"},
	} {
		f := healthy()
		tt.is(f)
		all := Judge(f)
		matched := false
		for _, found := range all {
			if found.Check == tt.check {
				matched = matched || found.Level == tt.level && regexp.MustCompile(tt.says).MatchString(found.String())
			} else if found.Level > OK {
				t.Errorf("%s: also %s", tt.name, found)
			}
		}
		if !matched || Worst(all) != tt.level {
			t.Errorf("%s: %v: %v", tt.name, Worst(all), all)
		}
		if refused := Refusal(all); (refused != nil) != (tt.level == Cannot) {
			t.Errorf("%s: refused: %v", tt.name, refused)
		}
	}
}

func TestAHealthyHostHasNothingToDo(t *testing.T) {
	all := Judge(healthy())
	for _, f := range all {
		if f.Level != OK || f.Do != "" {
			t.Errorf("%v %s", f.Level, f)
		}
	}
	if len(all) < 8 || Worst(all) != OK || Refusal(all) != nil {
		t.Errorf("findings: %v", all)
	}
}

func TestAllThatKeepsItFromRunningIsToldAtOnce(t *testing.T) {
	f := healthy()
	f.Engine.Rootless = true
	f.Overlap = []error{errors.New("the pool overlaps"), errors.New("so does the other")}
	err := Refusal(Judge(f))
	for _, part := range []string{"engine: ", "addresses: the pool overlaps", "addresses: so does the other"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
}
