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
		"another family":      {func(c *Config) { c.Advertise = netip.MustParseAddr("2001:db8::1") }, "--advertise 2001:db8::1"},
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

func TestConfigCheckTellsAllThatCannotWork(t *testing.T) {
	c := Defaults()
	c.Node, c.Pool, c.Servers, c.ReplaceServer, c.Network, c.Repair, c.UDPTimeout = "Host_1", netip.MustParsePrefix("10.96.0.0/30"), "some", 0, "", 0, 0
	c.Join, c.Token, c.TokenFile, c.Etcd, c.StateDir, c.MetricsWebConfig = []string{"192.0.2.1"}, "x", "/token", []string{"192.0.2.1:2379"}, "state", "/web.yaml"
	err := c.Check()
	if err == nil {
		t.Fatal("nothing is refused")
	}
	for _, says := range []string{
		"--node", "--pool", "--servers", "--replace-server", "--network", "--repair", "--udp-timeout", "--token and --token-file exclude",
		"--join and --etcd exclude", "--etcd 192.0.2.1:2379", "--state-dir", "--metrics-web-config",
	} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("it does not say %q:\n%v", says, err)
		}
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
		"no file":           {Config{TokenFile: "/nonexistent/token"}, "", "", "/nonexistent/token: no such file or directory: make it"},
		"a folder":          {Config{TokenFile: "/"}, "", "", "is a folder"},
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

// TestATokenIsCheckedBeforeTheAgentStarts, while the host has to join.
func TestATokenIsCheckedBeforeTheAgentStarts(t *testing.T) {
	good := "SHOAL-1-" + strings.Repeat("A", 52) + "-" + strings.Repeat("B", 32)
	file := func(text string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), "token")
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	member := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(member, identityFolder), 0o700), os.WriteFile(filepath.Join(member, identityFolder, "node.crt"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		token, file, state string
		says               string // "": it is in order
	}{
		"in order":                {"", file(good+"\n", 0o600), "", ""},
		"read by its owner alone": {"", file(good, 0o400), "", ""},
		"given":                   {good, "", "", ""},
		"on standard input":       {"", "-", "", ""},
		"nowhere":                 {"", "", "", "--join needs a token"},
		"no file":                 {"", "/nonexistent/token", "", "make it, with a token in it: sudo shoal token create prints one"},
		"a folder":                {"", t.TempDir(), "", "is a folder: name the file in it"},
		"an empty file":           {"", file("\n", 0o600), "", "there is no token in it: write one into it"},
		"cut short":               {"", file(good[:60], 0o600), "", "must be copied whole"},
		"given, and cut short":    {good[:60], "", "", "--token: this is no join token"},
		"everybody reads it":      {"", file(good, 0o644), "", "chmod 600"},
		"its group changes it":    {"", file(good, 0o620), "", "mode is 0620"},
		"not needed any more":     {"", "/nonexistent/token", member, ""},
		"not needed, and wrong":   {"", file("x", 0o644), member, ""},
	} {
		c := Config{Join: []string{"192.0.2.1"}, Token: test.token, TokenFile: test.file, StateDir: test.state}
		if c.StateDir == "" {
			c.StateDir = t.TempDir()
		}
		err := c.CheckFiles()
		setting := (*ConfigError)(nil)
		if (err != nil) != (test.says != "") || err != nil && (!errors.As(err, &setting) || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v, want %q", name, err, test.says)
		}
		if err != nil && (strings.Contains(err.Error(), "AAAA") || strings.Contains(err.Error(), "BBBB")) {
			t.Errorf("%s: the token is told: %v", name, err)
		}
	}
	alone := Config{StateDir: t.TempDir()}
	if err := alone.CheckFiles(); err != nil {
		t.Errorf("a host that joins nobody: %v", err)
	}
}
