//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"shoal/lab"
)

// dig asks the DNS server in the container's network, and returns all that dig says, or with +short the records, sorted.
func (c container) dig(question ...string) string {
	c.h.t.Helper()
	args := append(c.enter(false), "dig", "+time=2", "+tries=2", "@"+dnsServer)
	lines := strings.Split(c.h.Exec(append(args, question...)...), "\n")
	if slices.Contains(question, "+short") {
		slices.Sort(lines)
	}
	return strings.Join(lines, "\n")
}

// TestNames is every form of a name, and who may leave out what. Two stacks have a service of the same name.
func TestNames(t *testing.T) {
	h := home(t)
	shop := h.run("shop-web", "-l shoal.service=web -l com.docker.compose.project=eshop -l shoal.ports=http:80:8000 "+useDNS)
	blog := h.run("blog-web", "-l shoal.service=web -l com.docker.compose.project=weblog "+useDNS)
	solo1 := h.run("solo-1", "-l shoal.service=solo")
	solo2 := h.run("solo-2", "-l shoal.service=solo")
	rr := h.run("round", "-l shoal.service=round -l shoal.mode=dnsrr")
	client := h.client()
	inShop, inBlog := h.service("eshop/web").VIP, h.service("weblog/web").VIP
	solo := h.vip("solo")
	h.task("round", "running")
	if inShop == inBlog {
		t.Fatalf("two services have the VIP %s", inShop)
	}
	both := []string{solo1.addr(), solo2.addr()}
	slices.Sort(both)

	t.Run("with dig", func(t *testing.T) {
		for _, test := range []struct {
			from     container
			question string
			want     string
		}{
			{client, "solo", solo},
			{client, "solo.default", solo},
			{client, "solo.mesh.internal", solo},
			{client, "solo.default.mesh.internal", solo},
			{client, "SoLo.MESH.internal", solo},
			{client, "tasks.solo", strings.Join(both, "\n")},
			{client, "tasks.solo.mesh.internal", strings.Join(both, "\n")},
			{client, "tasks.solo.default.mesh.internal", strings.Join(both, "\n")},
			{client, "round.mesh.internal", rr.addr()},
			{client, "web.eshop", inShop},
			{client, "web.weblog", inBlog},
			{client, "web.eshop.mesh.internal", inShop},
			{client, "web.weblog.mesh.internal", inBlog},
			{client, "tasks.web.weblog.mesh.internal", blog.addr()},
			{shop, "web", inShop},
			{shop, "web.mesh.internal", inShop},
			{shop, "tasks.web.mesh.internal", shop.addr()},
			{shop, "web.weblog.mesh.internal", inBlog},
			{shop, "solo.mesh.internal", solo},
			{blog, "web", inBlog},
			{blog, "web.mesh.internal", inBlog},
			{client, "_http._tcp.web.eshop.mesh.internal SRV", "0 0 80 web.eshop.mesh.internal."},
			{shop, "_http._tcp.web SRV", "0 0 80 web.eshop.mesh.internal."},
			{client, "-x " + inShop, "web.eshop.mesh.internal."},
			{client, "-x " + shop.addr(), "tasks.web.eshop.mesh.internal."},
			{client, "-x " + solo, "solo.default.mesh.internal."},
			{client, "solo.mesh.internal AAAA", ""},
			{client, "mesh.internal NS", "mesh.internal."},
			{client, "+tcp solo.mesh.internal", solo},
		} {
			if got := test.from.dig(append([]string{"+short"}, strings.Fields(test.question)...)...); got != test.want {
				t.Errorf("%s asks %s: %q, want %q", test.from.name, test.question, got, test.want)
			}
		}
	})

	t.Run("what is not there", func(t *testing.T) {
		for _, test := range []struct {
			question string
			status   string
			says     string
		}{
			{"nosuch.mesh.internal", "NXDOMAIN", "SOA"},
			{"web.nosuch.mesh.internal", "NXDOMAIN", "SOA"},
			{"solo.mesh.internal AAAA", "NOERROR", "SOA"},
			{"mesh.internal MX", "NOERROR", "SOA"},
			{"_nosuch._tcp.web.eshop.mesh.internal SRV", "NXDOMAIN", "SOA"},
			// Two stacks have it, and the asker is in neither.
			{"web.mesh.internal", "NXDOMAIN", "2 other stacks have it (eshop, weblog); ask for web.STACK.mesh.internal)"},
		} {
			got := client.dig(strings.Fields(test.question)...)
			if !strings.Contains(got, "status: "+test.status) || !strings.Contains(got, test.says) || !strings.Contains(got, "ANSWER: 0") {
				t.Errorf("%s: want %s that says %s and has no answer:\n%s", test.question, test.status, test.says, got)
			}
		}
	})

	t.Run("with the C library", func(t *testing.T) {
		for _, test := range []struct {
			from       container
			name, want string
		}{
			{client, "solo", solo},
			{client, "web.eshop", inShop},
			{client, "web.weblog", inBlog},
			{shop, "web", inShop},
			{blog, "web", inBlog},
			{blog, "web.eshop.mesh.internal", inShop},
		} {
			got, err := test.from.tryExec("getent", "ahostsv4", test.name)
			if addr, _, _ := strings.Cut(got, " "); err != nil || addr != test.want {
				t.Errorf("%s looks %s up: %q %v, want %s", test.from.name, test.name, got, err, test.want)
			}
		}
		if out, err := client.tryExec("getent", "ahostsv4", "web"); err == nil {
			t.Errorf("a name that only other stacks have was found: %s", out)
		}
		if got := client.exec("wget", "-qO-", "http://web.eshop/"); field(got, "hostname") != "shop-web" {
			t.Errorf("http://web.eshop/ says %s", got)
		}
		if got := blog.exec("wget", "-qO-", "http://web:8000/"); field(got, "hostname") != "blog-web" {
			t.Errorf("blog's http://web:8000/ says %s", got)
		}
	})
}

// TestNamesOnAUserDefinedNetwork has Docker's own resolver in between, which knows a container by the same name: as
// Compose would give it. With the search domain, and ndots:1, it does not get to answer.
func TestNamesOnAUserDefinedNetwork(t *testing.T) {
	h := home(t)
	h.Docker("network", "create", "shopnet")
	const common = "--network shopnet -l com.docker.compose.project=eshop " + useDNS
	first := h.run("front-1", "-l shoal.service=front --network-alias front "+common)
	h.run("front-2", "-l shoal.service=front --network-alias front "+common)
	vip := h.service("eshop/front").VIP
	h.answered("http://"+vip+":8000/", "front-1", "front-2")

	if got := first.exec("cat", "/etc/resolv.conf"); !strings.Contains(got, "127.0.0.11") {
		t.Fatalf("Docker's resolver is not in between:\n%s", got)
	}
	for _, name := range []string{"front", "front.eshop", "front.mesh.internal"} {
		if got, _, _ := strings.Cut(first.exec("getent", "ahostsv4", name), " "); got != vip {
			t.Errorf("%s is %s, want the VIP %s", name, got, vip)
		}
	}
	if s := first.load("--count", "10", "http://front:8000/"); s.Hostnames["front-1"] != 5 || s.Hostnames["front-2"] != 5 {
		t.Errorf("ten requests to http://front:8000/: %+v", s)
	}
	for _, client := range []container{first, h.client()} {
		got := client.dig("+short", "tasks.front.eshop.mesh.internal")
		if n := strings.Count(got, ".") / 3; n != 2 {
			t.Errorf("%s: tasks.front.eshop is %q", client.name, got)
		}
	}
}

// TestForwarding has a resolver of the host answer what is none of the mesh's, and shows that it is asked nothing else.
func TestForwarding(t *testing.T) {
	h := home(t)
	h.run("near", "-l shoal.service=near")
	client := h.client()
	near := h.vip("near")
	h.run("hub", "-l shoal.service=github -l shoal.stack=com")
	hub := h.service("com/github").VIP
	upstream := startResolver(t, shared.With(t).Outside(), map[string]string{
		"www.example.net.": "203.0.113.5", "github.com.": "203.0.113.6", "rebind.example.net.": near, "container.example.net.": netip.MustParsePrefix(h.meshSubnet()).Addr().Next().String(),
	})

	lab.Eventually(t, waitLimit, "a foreign name is answered", func() error {
		if got := client.dig("+short", "www.example.net"); got != "203.0.113.5" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	if got := client.exec("getent", "ahostsv4", "www.example.net"); !strings.HasPrefix(got, "203.0.113.5 ") {
		t.Errorf("getent: %q", got)
	}
	if got := client.dig("nosuch.example.net"); !strings.Contains(got, "status: NXDOMAIN") {
		t.Errorf("a foreign name that is not there:\n%s", got)
	}
	// A stack called com makes no name of the Internet one of the mesh, and no name of the Internet leads to the mesh.
	for question, want := range map[string]string{
		"github.com": "203.0.113.6", "github.com.mesh.internal": hub, "rebind.example.net": "", "container.example.net": "",
	} {
		if got := client.dig("+short", question); got != want {
			t.Errorf("%s is %q, want %q", question, got, want)
		}
	}
	if got := client.dig("rebind.example.net"); !strings.Contains(got, "EDE: 15 (Blocked)") {
		t.Errorf("a foreign name with the address of a VIP:\n%s", got)
	}
	if got := client.dig("+norecurse", "www.example.net"); !strings.Contains(got, "status: REFUSED") || !strings.Contains(got, "ANSWER: 0") {
		t.Errorf("without RD the cache is shown:\n%s", got)
	}
	if reason := h.problem("com/github", "name-public"); !strings.Contains(reason, "github.com.mesh.internal") {
		t.Errorf("the notice says %s", reason)
	}
	asked := upstream.count("www.example.net.")
	if client.dig("+short", "www.example.net"); upstream.count("www.example.net.") != asked {
		t.Error("the same question was asked upstream again, not answered from the cache")
	}
	for _, question := range []string{"near.mesh.internal", "near", "nosuch.mesh.internal", "tasks.near", "_x._tcp.near", "nosuch.near.mesh.internal", "mesh.internal"} {
		client.dig(question)
	}
	client.dig("-x", near)
	client.dig("-x", "10.96.200.200") // no VIP, but of the pool
	for name := range upstream.all() {
		if strings.HasSuffix(name, "mesh.internal.") || strings.HasSuffix(name, ".96.10.in-addr.arpa.") || strings.Contains(name, "near") {
			t.Errorf("the host's resolver was asked %s", name)
		}
	}
}

// TestOthersAreNotAnswered: a machine outside that routes to the DNS server gets nothing out of it.
func TestOthersAreNotAnswered(t *testing.T) {
	h := home(t)
	h.run("inner", "-l shoal.service=inner")
	client := h.client()
	startResolver(t, shared.With(t).Outside(), map[string]string{"www.example.org.": "203.0.113.6"})
	if got := client.dig("+short", "inner.mesh.internal"); got != h.vip("inner") {
		t.Fatalf("a container is answered %q", got)
	}
	outside := shared.With(t).Outside()
	bridge := netip.MustParsePrefix(h.meshSubnet()).Addr().Next().String() // where other hosts ask the server
	before := h.metrics()[`shoal_dns_queries_total{kind="refused"}`]
	for _, server := range []string{dnsServer, bridge} {
		outside.Exec("ip", "route", "replace", server, "via", h.Addr().String())
		t.Cleanup(func() { outside.Exec("ip", "route", "del", server) })
		for _, question := range []string{"inner.mesh.internal", "tasks.inner.mesh.internal", "www.example.org", "-x " + h.vip("inner")} {
			for _, transport := range []string{"+notcp", "+tcp"} {
				out, err := outside.TryExec(append([]string{"dig", "+time=1", "+tries=1", transport, "@" + server}, strings.Fields(question)...)...)
				// What is sent to a VIP from the link does not come as far as the server, which closes TCP unasked.
				refused := server == bridge && transport == "+notcp"
				if refused != strings.Contains(out, "status: REFUSED") || !refused && err == nil || strings.Contains(out, "ANSWER: 1") {
					t.Errorf("outside asks %s of %s %s: %v\n%s", server, transport, question, err, out)
				}
			}
		}
	}
	// It was the server that refused, not a packet that got lost.
	if after := h.metrics()[`shoal_dns_queries_total{kind="refused"}`]; after < before+4 {
		t.Errorf("the server has refused %v questions, want 4 or more", after-before)
	}
}
