//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
)

// kernelState is all that shoal may write to of the kernel and the engine of a host, as their own tools tell it, by tool. What
// changes by itself is left out: counters, how long entries have to live, and what IPv6 finds out about its neighbours.
func kernelState(h *host) map[string]string {
	h.t.Helper()
	state := map[string]string{"iptables-save": ruleLines(h.Exec("iptables-save"))}
	for _, command := range append([]string{
		"ip route show table all", "ip rule", "ip -4 address", "ip netns", "ls /sys/class/net", "bridge -details link", "ls -R /sys/fs/bpf", `sysctl -a --pattern ^net\.`,
	}, thePlane().state...) {
		out, err := h.TryExec(strings.Fields(command)...)
		if err != nil && !strings.HasPrefix(command, "sysctl") { // it cannot read some, and says so
			h.t.Fatal(err)
		}
		if strings.HasPrefix(command, "nft ") {
			out = strings.Join(nftLines(out), "\n")
		}
		lines := slices.DeleteFunc(strings.Split(numbered.ReplaceAllString(out, ""), "\n"), volatile.MatchString)
		slices.Sort(lines)
		state[command] = strings.Join(lines, "\n")
	}
	h.engine(func(c *client.Client) error {
		networks, err := c.NetworkList(h.t.Context(), network.ListOptions{})
		var names []string
		for _, n := range networks {
			names = append(names, n.Name)
		}
		slices.Sort(names)
		state["docker network ls"] = strings.Join(names, "\n")
		return err
	})
	return state
}

// volatile are lines that say nothing of what anybody has set.
var volatile = regexp.MustCompile(`fe80:|ff00:|nf_conntrack_count|random`)

// numbered is where a line tells the number of a device, which one that is made anew has another of.
var numbered = regexp.MustCompile(`(?m)^\d+: |@if\d+`)

// ruleLines are the lines of iptables-save that tell of a chain or a rule, each with its table. Their order is kept. A chain
// of the kernel's own that lets everything pass is left out: with tables of the old kind, it is there once anybody looked.
func ruleLines(save string) string {
	var lines []string
	table := ""
	for line := range strings.Lines(save) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":") && !strings.Contains(line, " ACCEPT "):
			line, _, _ = strings.Cut(line, " [")
			lines = append(lines, table+" "+line)
		case strings.HasPrefix(line, "-"):
			lines = append(lines, table+" "+line)
		}
	}
	return strings.Join(lines, "\n")
}

// difference tells what is in one state alone, as diff does; "" where they are the same.
func difference(before, after map[string]string) string {
	var said strings.Builder
	for command := range before {
		old, now := strings.Split(before[command], "\n"), strings.Split(after[command], "\n")
		if slices.Equal(old, now) {
			continue
		}
		fmt.Fprintf(&said, "%s:\n", command)
		for _, line := range old {
			if !slices.Contains(now, line) {
				fmt.Fprintf(&said, "- %s\n", line)
			}
		}
		for _, line := range now {
			if !slices.Contains(old, line) {
				fmt.Fprintf(&said, "+ %s\n", line)
			}
		}
	}
	return said.String()
}
