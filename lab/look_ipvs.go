package lab

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// ipvsScript prints the host's table and, after a comma, that of the namespace in which published ports are balanced.
const ipvsScript = `ipvsadm -ln || exit
echo ,
[ ! -e /run/netns/shoal-ingress ] || nsenter --net=/run/netns/shoal-ingress ipvsadm -ln`

// realServer is a line of ipvsadm -ln for one of a service's.
var realServer = regexp.MustCompile(`^  -> ([0-9.]+:\d+) +Masq +(\d+)`)

func parseIPVS(out string) ([]Frontend, error) {
	vips, published, ok := strings.Cut(out, "\n,")
	if !ok {
		return nil, errTwoParts
	}
	all, err := parseIPVSTable(vips, false)
	if err != nil {
		return nil, err
	}
	others, err := parseIPVSTable(published, true)
	return append(all, others...), err
}

func parseIPVSTable(table string, published bool) (all []Frontend, err error) {
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 2 && (f[0] == "FWM" || f[0] == "TCP" || f[0] == "UDP" || f[0] == "SCTP") {
			all = append(all, Frontend{Published: published, Scheduler: f[2]})
			continue
		}
		f := realServer.FindStringSubmatch(line)
		if f == nil || len(all) == 0 {
			continue // a heading
		}
		addr, err := netip.ParseAddrPort(f[1])
		if err != nil {
			return nil, fmt.Errorf("ipvsadm said %q: %w", line, err)
		}
		weight, err := strconv.Atoi(f[2])
		if err != nil {
			return nil, fmt.Errorf("ipvsadm said %q: %w", line, err)
		}
		last := &all[len(all)-1]
		last.Backends = append(last.Backends, Backend{addr, weight})
	}
	for _, f := range all {
		sortBackends(f.Backends)
	}
	return all, nil
}

// countIPVS counts connections in what ipvsadm -lcn says: protocol, time left, state, client, virtual service, task.
func countIPVS(table, proto string, task netip.Addr) (n int) {
	state := map[string]string{"tcp": "ESTABLISHED", "udp": "UDP"}[proto]
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) == 6 && strings.EqualFold(f[0], proto) && f[2] == state && strings.HasPrefix(f[5], task.String()+":") {
			n++
		}
	}
	return n
}
