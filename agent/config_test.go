package agent

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConfigCheckRefusesWhatCannotWork(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		say    string // what the error must mention; "": none
	}{
		"defaults":            {func(*Config) {}, ""},
		"node no label":       {func(c *Config) { c.Node = "Host_1" }, "--node"},
		"pool with host bits": {func(c *Config) { c.Pool = netip.MustParsePrefix("10.96.0.1/16") }, "did you mean 10.96.0.0/16"},
		"pool too small":      {func(c *Config) { c.Pool = netip.MustParsePrefix("10.96.0.0/30") }, "/8 to /28"},
		"pool IPv6":           {func(c *Config) { c.Pool = netip.MustParsePrefix("fd00::/112") }, "IPv4"},
		"DNS outside pool":    {func(c *Config) { c.DNS = netip.MustParseAddr("10.97.0.10") }, "must lie in the pool"},
		"zone":                {func(c *Config) { c.Zone = "mesh..internal" }, "--zone"},
		"upstream":            {func(c *Config) { c.Upstreams = []string{"example.com"} }, "ADDR:PORT"},
		"upstream with port":  {func(c *Config) { c.Upstreams = []string{"192.0.2.1:5353", "2001:db8::1"} }, ""},
		"timeout in parts":    {func(c *Config) { c.TCPTimeout = 1500 * time.Millisecond }, "--tcp-timeout"},
		"timeout zero":        {func(c *Config) { c.UDPTimeout = 0 }, "--udp-timeout"},
		"repair too often":    {func(c *Config) { c.Repair = time.Millisecond }, "--repair"},
		"ports to publish":    {func(c *Config) { c.Publish = []string{"80", "8000-8999"} }, ""},
		"no port to publish":  {func(c *Config) { c.Publish = []string{"8999-8000"} }, "--publish-ports"},
		"rest negative":       {func(c *Config) { c.VIPRest = -time.Second }, "--vip-rest"},
		"reclaim negative":    {func(c *Config) { c.VIPReclaim = -time.Second }, "--vip-reclaim"},
		"certificate alone":   {func(c *Config) { c.Etcd = []string{"https://e:2379"}; c.EtcdCert = "x.pem" }, "go together"},
		"CA without etcd":     {func(c *Config) { c.EtcdCA = "ca.pem" }, "need --etcd"},
		"relative folder":     {func(c *Config) { c.StateDir = "state" }, "absolute"},
		"long socket path":    {func(c *Config) { c.RunDir = "/" + strings.Repeat("x", 100) }, "107"},
		"docker host":         {func(c *Config) { c.Docker = "nowhere" }, "--docker-host"},
		"joined before":       {func(c *Config) { c.Join = []string{"192.0.2.1"} }, ""},
		"token for nobody":    {func(c *Config) { c.TokenFile = "/token" }, "--join"},
		"two tokens":          {func(c *Config) { c.Join = []string{"192.0.2.1"}; c.Token, c.TokenFile = "x", "/token" }, "exclude"},
		"socket balancing":    {func(c *Config) { c.SocketBalancing = "on" }, "--socket-balancing"},
		"no socket balancing": {func(c *Config) { c.SocketBalancing = "off" }, ""},
		"relative cgroup":     {func(c *Config) { c.SocketCgroup = "unified/a" }, "absolute"},
		"no cgroup":           {func(c *Config) { c.SocketCgroup = "/proc" }, "--socket-cgroup: /proc is no control group"},
		"an unused cgroup":    {func(c *Config) { c.SocketBalancing, c.SocketCgroup = "off", "/proc" }, ""},
		"metrics address":     {func(c *Config) { c.MetricsAddr = "localhost" }, "--metrics-addr"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Defaults()
			c.Node = "a"
			tt.change(&c)
			err := c.Check()
			if tt.say == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			var setting *ConfigError
			if !errors.As(err, &setting) || !strings.Contains(err.Error(), tt.say) {
				t.Fatalf("got %v, want a ConfigError that mentions %q", err, tt.say)
			}
		})
	}
}

func TestConfigCheckTakesTheHostsName(t *testing.T) {
	c := Defaults()
	if err := c.Check(); err != nil || c.Node == "" {
		t.Fatalf("node %q, %v", c.Node, err)
	}
}

func TestWhereTheTokenIs(t *testing.T) {
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tt := range map[string]struct {
		c     Config
		stdin string
		want  string
		say   string
	}{
		"given":             {Config{Token: "SHOAL-1-X"}, "", "SHOAL-1-X", ""},
		"in a file":         {Config{TokenFile: file("SHOAL-1-X\n")}, "", "SHOAL-1-X", ""},
		"on standard input": {Config{TokenFile: "-"}, "SHOAL-1-X\n", "SHOAL-1-X", ""},
		"nowhere":           {Config{}, "SHOAL-1-X", "", "--token-file, SHOAL_TOKEN or --token"},
		"no file":           {Config{TokenFile: "/nonexistent/token"}, "", "", "/nonexistent/token"},
		"an empty file":     {Config{TokenFile: file("\n")}, "", "", "no token in it"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tt.c.readToken(strings.NewReader(tt.stdin))
			if got != tt.want {
				t.Errorf("token %q", got)
			}
			var setting *ConfigError
			if (err != nil) != (tt.say != "") || err != nil && (!errors.As(err, &setting) || !strings.Contains(err.Error(), tt.say)) {
				t.Errorf("error %v", err)
			}
		})
	}
}
