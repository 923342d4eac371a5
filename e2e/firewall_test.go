//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"shoal/lab"
)

// closedFirewall is one of the user's own, as many have it: what it does not name it drops.
const closedFirewall = `table inet own {
	set trusted { type ipv4_addr; flags interval; elements = { 192.168.77.0/30 } }
	chain in {
		type filter hook input priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iif "lo" accept
		ip saddr @trusted tcp dport { 22, 443 } counter accept
		meta l4proto icmp limit rate 10/second accept
		goto rest
	}
	chain rest {
		counter
	}
	chain through {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept
		iifname "docker0" oifname != "docker0" accept
		reject with icmp type admin-prohibited
	}
}
`

// TestAFirewallOfTheUsersOwn: a base chain that drops what the mesh needs is named, with lines that mend it, and explain
// stops there; with those lines all works, and the firewall drops what it dropped.
func TestAFirewallOfTheUsersOwn(t *testing.T) {
	lab.Needs(t, "nf_tables")
	h := home(t)
	outside := shared.With(t).Outside()
	h.meshSubnet()
	h.run("guarded", "--network mesh -l shoal.service=guarded -l shoal.publish=8097:8000")
	client := h.client()
	h.answered(h.web("guarded"), "guarded")
	h.noProblem("inet own in")

	file := filepath.Join(h.Dir(), "own.nft")
	if err := os.WriteFile(file, []byte(closedFirewall), 0o644); err != nil {
		t.Fatal(err)
	}
	h.Exec("nft", "-f", file)
	t.Cleanup(func() { h.TryExec("nft", "delete", "table", "inet", "own") })
	why := map[string]string{}
	for _, chain := range []string{"inet own in", "inet own through"} {
		why[chain] = h.problem(chain, "firewall-drops")
	}
	if w := why["inet own in"]; !strings.Contains(w, "names for containers") || !strings.Contains(w, "its policy") {
		t.Errorf("of the chain in is said: %s", w)
	}
	if w := why["inet own through"]; !strings.Contains(w, "published ports") || !strings.Contains(w, "rule 3 of chain through") {
		t.Errorf("of the chain through is said: %s", w)
	}
	if out, err := h.TryShoal("explain", "guarded"); code(err) != 1 || !regexp.MustCompile(`(?m)^.*firewall .*inet own`).MatchString(out) {
		t.Errorf("explain says: %v\n%s", err, out)
	}
	dig := append(client.enter(false), "dig", "+tries=1", "+time=1", "@"+dnsServer, "guarded.mesh.internal")
	published := fmt.Sprintf("http://%v:8097/", h.Addr())
	if out, err := h.TryExec(dig...); err == nil {
		t.Errorf("names are answered past the firewall:\n%s", out)
	}
	if out, err := outside.TryExec("whoami", "get", "--timeout", "1s", published); err == nil {
		t.Errorf("the published port is answered past the firewall:\n%s", out)
	}

	for _, w := range why {
		for _, line := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(w, -1) {
			h.Exec("sh", "-ec", line[1])
		}
	}
	h.noProblem("inet own in")
	h.noProblem("inet own through")
	h.Exec(dig...)
	if got := outside.Exec("whoami", "get", published); field(got, "hostname") != "guarded" {
		t.Errorf("the published port answers %s", got)
	}
	if got := client.exec("whoami", "get", h.web("guarded")); field(got, "hostname") != "guarded" {
		t.Errorf("the VIP answers %s", got)
	}
	p := h.Start("whoami", "serve", "--http", "8098")
	t.Cleanup(func() { _ = p.Signal(syscall.SIGKILL) })
	h.answered("http://127.0.0.1:8098/", h.Name())
	if out, err := outside.TryExec("whoami", "get", "--timeout", "1s", fmt.Sprintf("http://%v:8098/", h.Addr())); err == nil {
		t.Errorf("another port is open:\n%s", out)
	}
}
