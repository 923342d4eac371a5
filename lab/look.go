package lab

import (
	"regexp"
	"slices"
)

// realServer is a line of ipvsadm -ln for one whose weight is not 0.
var realServer = regexp.MustCompile(`(?m)^  -> ([0-9.]+):(\d+) +Masq +[1-9]`)

// RealServers are the addresses that a table, as ipvsadm -ln prints it, gives new connections to, sorted. DNS servers, at
// port 53, are none of them: the second DNS address has those of other hosts behind it.
func RealServers(table string) (all []string) {
	for _, f := range realServer.FindAllStringSubmatch(table, -1) {
		if f[2] != "53" {
			all = append(all, f[1])
		}
	}
	slices.Sort(all)
	return slices.Compact(all) // one is there for TCP and for UDP
}
