//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"shoal/lab"
	"shoal/lab/kernel"
)

// plane is what the tests know of a data plane's state in the kernel, beyond what the lab reads of it: commands, as words
// with spaces between, and texts.
type plane struct {
	state     []string                       // print what it may write to
	own       string                         // prints what is its own alone; "": its rules are among those of iptables
	monitors  []string                       // print what is written while they run
	others    []string                       // make what others may have, much like its own
	breakages [][]string                     // what other programs do to it
	explained [][2]string                    // a breakage, and the step at which explain then stops
	service   string                         // what is said of a service, by the step virtual of trace
	published []string                       // steps of trace for a published port, by kind and text
	clients   string                         // what it recognises clients of the cluster by, in trace
	front     string                         // the step of a frontend, in explain and trace
	counts    bool                           // it counts bytes
	timeouts  []string                       // print its idle timeouts; none: it has no settings for them
	timeoutOf func(tcp, fin, udp int) string // what they then print
}

var planes = map[string]plane{
	kernel.IPVS: {
		state: []string{"ipset save", "ipvsadm -Sn", "ipvsadm -ln --timeout"},
		others: []string{
			"ipset create others hash:ip skbinfo",
			"ipset add others 10.96.0.1 skbmark 0x7",
			"iptables -t mangle -A PREROUTING -m set --match-set others dst -j SET --map-set others dst --map-mark",
			"ipvsadm -A -f 7 -s rr",
			"ipvsadm -a -f 7 -r 192.0.2.7 -m",
			"ipvsadm -A -t 192.0.2.8:80 -s wlc",
			"ipvsadm --set 800 100 200",
			"sysctl -w net.ipv4.vs.expire_nodest_conn=0",
		},
		breakages: [][]string{
			{"iptables -F", "iptables -t mangle -F", "iptables -t nat -F", "iptables -t raw -F"},
			{"iptables -t mangle -F SHOAL-MARK", "iptables -I FORWARD -j DROP"}, // what firewalls do: ours must stand before it
			{"ip route del local 10.96.0.0/16 table local", "ipset flush SHOAL-HAIRPIN"},
			{"ipvsadm -C", "ip link set docker0 type bridge nf_call_iptables 0"},
			{"ipset flush SHOAL-VIP", "ipset flush SHOAL-VIP-PORT", "ipset flush SHOAL-NETS", "sysctl -w net.ipv4.vs.conntrack=0"},
			{"ip link del shoal-ingress", "ipset flush SHOAL-IN-PUBLISHED"},
		},
		explained: [][2]string{
			// Routes are not among them: the kernel tells of their loss, and the agent mends it first.
			{"iptables -t mangle -F SHOAL-MARK", "rules"},
			{"ipset flush SHOAL-VIP-PORT", "balancer"},
			{"ipvsadm -C", "virtual"},
		},
		service:   "IPVS",
		published: []string{"host SHOAL-IN-PUBLISHED", "sandbox mark", "virtual scheduler rr", "return replies to the sandbox"},
		clients:   "is inside the cluster (SHOAL-IN-CLIENTS ",
		front:     "virtual",
		counts:    true,
		timeouts:  []string{"ipvsadm -l --timeout"},
		timeoutOf: func(tcp, fin, udp int) string {
			return fmt.Sprintf("Timeout (tcp tcpfin udp): %d %d %d", tcp, fin, udp)
		},
	},
	kernel.NFTables: {
		state:    []string{"nft -s list ruleset"},
		own:      "nft -s list table ip shoal",
		monitors: []string{"nft monitor"},
		others: []string{
			"nft add table ip others",
			"nft add map ip others services { type ipv4_addr . inet_proto . inet_service : verdict ; }",
			"nft add element ip others services { 10.96.0.1 . tcp . 80 : drop }",
			"nft add chain ip others prerouting { type nat hook prerouting priority -101 ; }",
			"nft add rule ip others prerouting ip daddr 192.0.2.8 ct mark set 0x7",
		},
		breakages: [][]string{
			{"iptables -F", "iptables -t raw -F"},
			{"iptables -t raw -F SHOAL-PASS", "iptables -I FORWARD -j DROP"}, // what firewalls do: ours must stand before it
			{"nft delete table ip shoal"},
			{"nft flush table ip shoal"},
			{"nft flush map ip shoal slots", "nft flush map ip shoal backends"},
			{"nft flush map ip shoal services"},
			{"nft flush ruleset"},
		},
		// The kernel tells of what is done to its table, and the agent mends it before
		// explain could look: that explain tells what is broken is shown by the plane's
		// own tests.
		service:   "goto",
		published: []string{"host services", "map goto"},
		clients:   "is inside the cluster (",
		front:     "map",
	},
}

// thePlane is the one that this run is about.
func thePlane() plane { return planes[lab.Plane()] }

// nftState are the lines of what nft lists of the table, sorted, without what depends on chance: clients whose affinity is
// remembered, and the numbers of balancers, in whose place stand their chains.
func nftState(list string) string {
	balancer := regexp.MustCompile(`(0x[0-9a-f]{8}) : goto ([a-z0-9-]+)`)
	chains := map[string]string{}
	for _, m := range balancer.FindAllStringSubmatch(list, -1) {
		chains[m[1]] = m[2]
	}
	var lines []string
	for _, line := range nftLines(list) {
		for line := range strings.SplitSeq(line, ", ") {
			if number := line[strings.LastIndex(line, " ")+1:]; strings.Contains(line, " counter : ") && chains[number] != "" {
				line = strings.TrimSuffix(line, number) + chains[number]
			}
			if !balancer.MatchString(line) && !strings.Contains(line, " timeout ") {
				lines = append(lines, line)
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// nftLines are the lines of what nft lists, each element of a set or map on one of its own, whichever comes first.
func nftLines(list string) []string {
	var lines []string
	for line := range strings.Lines(list) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "elements = { ")
		lines = append(lines, strings.TrimRight(line, ", }"))
	}
	return lines
}

// wrote are the lines that a monitor printed of what is shoal's.
func wrote(monitor, output string) (lines []string) {
	for line := range strings.Lines(output) {
		if !strings.HasPrefix(monitor, "nft ") || strings.Contains(line, " ip shoal") {
			lines = append(lines, line)
		}
	}
	return lines
}

// kernelCounters are numbers that only grow while nobody makes anew what they belong to: the packets counted by each rule
// of shoal's, the connections of each IPVS service and destination, and 1 for each object of an nftables table, by its
// handle, which no two objects have.
func kernelCounters(h *host) map[string]int {
	h.t.Helper()
	counters := map[string]int{}
	count := func(name, text string) {
		n, err := strconv.Atoi(text)
		if err != nil {
			h.t.Fatalf("the counter of %s: %v", name, err)
		}
		counters[name] = n
	}
	table := ""
	for line := range strings.Lines(h.Exec("iptables-save", "-c")) {
		line = strings.TrimSpace(line)
		if t, ok := strings.CutPrefix(line, "*"); ok {
			table = t
		}
		if m := ruleCounter.FindStringSubmatch(line); m != nil && strings.Contains(m[2], "SHOAL") {
			count(table+" "+m[2], m[1])
		}
	}
	if lab.Plane() == kernel.NFTables {
		for _, line := range nftLines(h.Exec("nft", "-a", "list", "table", "ip", "shoal")) {
			name := nftCounter.ReplaceAllString(line, "")
			if m := nftCounter.FindStringSubmatch(line); m != nil && !strings.Contains(line, " expires ") {
				count("packets of "+name, m[1])
			}
			if strings.Contains(line, "# handle ") {
				counters[name]++
			}
		}
		return counters
	}
	service := ""
	for line := range strings.Lines(h.Exec("ipvsadm", "-ln", "--stats", "--exact")) {
		f := strings.Fields(line)
		switch {
		case len(f) > 2 && f[0] == "FWM":
			service = f[1]
			count("service "+service, f[2])
		case len(f) > 2 && f[0] == "->" && service != "":
			count("service "+service+" to "+f[1], f[2])
		}
	}
	return counters
}

var (
	ruleCounter = regexp.MustCompile(`^\[(\d+):\d+\] (-A .*)$`)
	nftCounter  = regexp.MustCompile(`(?:counter )?packets (\d+) bytes \d+`)
)
