package main

import (
	"encoding"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"shoal/agent"
	"shoal/api"
	"shoal/model"
)

// settings are everything that can be set of an agent, and of how it logs.
type settings struct {
	agent.Config
	file   string // YAML
	level  string
	format string

	flags []*pflag.Flag     // the settings, in the order of declare
	from  map[string]source // by name, of those that are not by default
	wrong map[string]bool   // by name, those that could not be read

	fileUnread bool // the file as a whole could not be read
}

// declare makes the flags. They are the one place where a setting is named,
// with its type, default and help; resolve reads the other sources into them.
func (c *settings) declare(flags *pflag.FlagSet) {
	f := pflag.NewFlagSet("settings", pflag.ContinueOnError)
	f.SortFlags = false
	c.Config = agent.Defaults()
	f.StringVar(&c.file, "config", defaultConfigFile, "YAML file of settings")
	f.StringVar(&c.level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&c.format, "log-format", "text", "text or json")
	f.StringVar(&c.Node, "node", c.Node, "this host's name in the cluster (default: the first label of its host name, in lower case)")
	textVar(f, &c.Advertise, "advertise", "this host's address (default: the source of its default route, and followed when it changes)")
	f.StringVar(&c.StateDir, "state-dir", c.StateDir, "folder of what must outlive a restart")
	f.StringVar(&c.Docker, "docker-host", c.Docker, "the Docker engine's socket")
	textVar(f, &c.Pool, "pool", "addresses for VIPs, a prefix of 8 to 28 bits")
	textVar(f, &c.DNS, "dns", "the DNS server's address, in the pool")
	textVar(f, &c.DNSPeers, "dns-peers", "the address that leads to other hosts' DNS servers, in the pool (default: the one after --dns)")
	f.StringVar(&c.Zone, "zone", c.Zone, "the mesh's DNS zone")
	f.BoolVar(&c.FlatNames, "flat-names", c.FlatNames, "let a name without a stack mean the only service of that name, in whichever stack, where neither the asker's stack nor default has one: who chooses labels can take names that nobody has")
	f.StringSliceVar(&c.Upstreams, "upstream", c.Upstreams, "resolvers for all other names, ADDR[:PORT] (default: those of --resolv-conf)")
	f.StringVar(&c.ResolvConf, "resolv-conf", c.ResolvConf, "the file that names the resolvers of this host")
	f.StringSliceVar(&c.Publish, "publish-ports", c.Publish, "the ports that labels may publish on this host, PORT or FIRST-LAST (default: 1-65535). The host's own are never among them: shoal's, and those of sshd")
	f.DurationVar(&c.VIPReclaim, "vip-reclaim", c.VIPReclaim, "in a full pool, take back the VIP of a service without tasks for this long; 0: never")
	f.DurationVar(&c.VIPRest, "vip-rest", c.VIPRest, "hand a VIP to no other service until this long after the last task of the one that had it, 0 to 24h")
	f.StringSliceVar(&c.Join, "join", c.Join, "hosts of the cluster to join, ADDR[:PORT]; a host that belongs to it already asks there only when it does not find the store")
	f.StringVar(&c.Token, "token", c.Token, "the token to join by, see shoal token create; every user of this host can read it in the list of processes, as long as the agent runs: --token-file and SHOAL_TOKEN keep it from them")
	f.StringVar(&c.TokenFile, "token-file", c.TokenFile, "a file that holds the token; -: standard input. It is read when this host joins, and not needed any more then")
	textVar(f, &c.SubnetPool, "subnet-pool", "addresses for containers, several with commas between them. Where they are used up, add one at the end")
	f.IntVar(&c.SubnetBits, "subnet-bits", c.SubnetBits, "the prefix length of each host's part of them")
	f.StringVar(&c.Network, "network", c.Network, "the Docker network of the mesh; mesh is made by the agent, others (bridge) must exist, with a subnet of their own on each host")
	f.StringVar((*string)(&c.Backend), "backend", string(c.Backend), "how containers reach other hosts' containers: auto, host-gw, vxlan or ipip. auto takes host-gw to hosts on its own link, once it has found that the link carries what containers send, and vxlan to others")
	f.BoolVar(&c.NoOffload, "vxlan-no-offload", c.NoOffload, "make the checksums of what goes through vxlan here, not in the network card, for those cards that spoil them: TCP between hosts hangs while ping works")
	f.Uint16Var(&c.VXLANPort, "vxlan-port", c.VXLANPort, "the UDP port of vxlan")
	f.IntVar(&c.VNI, "vxlan-vni", c.VNI, "the network identifier of vxlan, 1 to 16777215")
	f.BoolVar(&c.TellManagers, "tell-managers", c.TellManagers, "tell systemd-networkd (by a file in /run/systemd/networkd.conf.d, in force from its next start until the next boot) to keep routes and routing rules that it did not make, and NetworkManager (over D-Bus) to leave shoal's devices alone")
	f.StringSliceVar(&c.Etcd, "etcd", c.Etcd, "endpoints of an existing etcd, which the hosts of a cluster share, https://HOST:PORT; without TLS only at a loopback address (default: an embedded one)")
	f.StringVar(&c.EtcdCA, "etcd-ca", c.EtcdCA, "that etcd's CA certificate, a PEM file")
	f.StringVar(&c.EtcdCert, "etcd-cert", c.EtcdCert, "a client certificate for it, a PEM file")
	f.StringVar(&c.EtcdKey, "etcd-key", c.EtcdKey, "the certificate's key, a PEM file")
	f.StringVar(&c.Servers, "servers", c.Servers, "who serves the store: auto, three hosts where there are as many, chosen by themselves; or manual, by shoal server promote and demote")
	f.DurationVar(&c.ReplaceServer, "replace-server", c.ReplaceServer, "with --servers auto: how long a host that serves the store may be dead before another takes its place")
	f.StringVar(&c.DataPlane, "data-plane", c.DataPlane, "what balances connections in the kernel: ipvs, nftables, or auto: ipvs where the kernel has all that it needs, else nftables")
	f.StringVar(&c.SocketBalancing, "socket-balancing", c.SocketBalancing, "choose the task of a connection to a VIP in connect(), by a BPF program: auto (where the kernel and its control groups allow it) or off. --data-plane balances what this does not")
	f.StringVar(&c.SocketCgroup, "socket-cgroup", c.SocketCgroup, "balance in connect() for the processes of this control group, a folder of the version 2 hierarchy (default: the hierarchy's root: all processes of the host)")
	f.DurationVar(&c.Ready, "ready-limit", c.Ready, "how long a task of this host without a HEALTHCHECK may take to accept connections on its ports; then it enters rotation all the same, with a problem. 0 waits for none, as the label shoal.ready=none does for one")
	f.DurationVar(&c.TCPTimeout, "tcp-timeout", c.TCPTimeout, "how long IPVS remembers an idle TCP connection, 1s to 744h; not used with nftables")
	f.DurationVar(&c.TCPFinTimeout, "tcp-fin-timeout", c.TCPFinTimeout, "the same for one that was closed")
	f.DurationVar(&c.UDPTimeout, "udp-timeout", c.UDPTimeout, "the same for UDP")
	f.StringVar(&c.MetricsAddr, "metrics-addr", c.MetricsAddr, "serve /metrics, /healthz and /readyz on this ADDR:PORT too (default: on the socket only)")
	f.StringVar(&c.MetricsWebConfig, "metrics-web-config", c.MetricsWebConfig, "a web configuration file of the Prometheus exporter toolkit, with TLS certificates and passwords for --metrics-addr (default: everybody who reaches the address reads the metrics)")
	f.StringVar(&c.UIAddr, "ui-addr", c.UIAddr, "serve the web page of the cluster on this ADDRESS:PORT, 127.0.0.1:7480 for this host alone; off loopback by TLS only. shoal ui prints its address with the token (default: not served)")
	f.StringVar(&c.UICert, "ui-cert", c.UICert, "the page's certificate, a PEM file (default: off loopback, this host's own in the cluster, which browsers do not know)")
	f.StringVar(&c.UIKey, "ui-key", c.UIKey, "the certificate's key, a PEM file")
	f.StringVar(&c.UIClientCA, "ui-client-ca", c.UIClientCA, "a CA, a PEM file: who looks at the page shows a certificate of it, instead of the token")
	f.DurationVar(&c.Repair, "repair", c.Repair, "the time between comparisons of the kernel with what should be, 1s to 1h; up to twice that where they take long")
	for _, name := range sameEverywhere {
		f.Lookup(name).Usage += sameOnAllHosts
	}
	f.VisitAll(func(f *pflag.Flag) {
		if f.DefValue == "[]" {
			f.DefValue = ""
		}
		f.Value = &settingValue{Value: f.Value}
		c.flags = append(c.flags, f)
	})
	flags.AddFlagSet(f)
}

// sameEverywhere are the settings that have to be the same on all hosts of a cluster.
// The agents compare them.
var sameEverywhere = []string{
	"pool", "dns", "dns-peers", "zone", "flat-names", "vip-rest",
	"subnet-pool", "subnet-bits", "network", "backend", "vxlan-port", "vxlan-vni", "servers",
}

// sameOnAllHosts ends their help.
const sameOnAllHosts = "; the same on all hosts"

func agentCommand(o *options) *cobra.Command {
	var c settings
	var check bool
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run shoal on this host",
		Long: `Run shoal on this host, until it is stopped. Stopping it leaves everything but
names in place: connections and the balancer go on. "shoal down" removes it.

Every flag can also be set by a variable (--tcp-timeout is SHOAL_TCP_TIMEOUT)
or by a line of the YAML file (tcp-timeout: 2h); flags win over variables,
variables over the file. With --check, the agent reads them and starts nothing:
it tells every mistake and exits with 2, or prints the settings that result, and
where each comes from. Certificates and the token to join by are read too: the
token's file has to be its owner's alone. "shoal settings" shows the settings of
the agent that runs.`,
		Example: "  sudo shoal agent\n  sudo shoal agent --pool 10.200.0.0/16 --dns 10.200.0.10\n  shoal agent --check",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := c.resolve(cmd.Flags(), o)
			err = errors.Join(err, c.check())
			if check {
				err = errors.Join(err, c.CheckFiles())
			}
			if err != nil {
				return err
			}
			c.Effective = c.effective()
			if check {
				return settingsListing(func(*cobra.Command, []string) ([]api.Setting, error) { return c.Effective, nil }).run(cmd, o, nil)
			}
			return agent.Run(cmd.Context(), c.Config, buildVersion(), log)
		},
	}
	c.declare(cmd.Flags())
	cmd.Flags().BoolVar(&check, "check", false, "check the settings and print them, each with where it comes from; start nothing. It needs no root")
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { // the other sources have mistakes of their own
		_, more := c.resolve(cmd.Flags(), o)
		return &usageError{errors.Join(flagError(cmd, err), more)}
	})
	return cmd
}

func downCommand(o *options) *cobra.Command {
	var c settings
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove what shoal made on this host's kernel",
		Long: `Remove all that shoal made on this host's kernel, and only that: rules, sets,
routes, devices, virtual services and the Docker network mesh, and put back the
kernel settings it changed. The agent must be stopped first, and no container be
on that network. What is remembered (which service has which VIP) stays in the
state folder.`,
		Example: "  sudo systemctl stop shoal && sudo shoal down",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := c.resolve(cmd.Flags(), o)
			if err != nil {
				return err
			}
			return agent.Down(cmd.Context(), c.Config, log)
		},
	}
	c.declare(cmd.Flags())
	cmd.Flags().VisitAll(hide("dns", "pool", "state-dir", "docker-host", "config"))
	return cmd
}

func logger(level, format string) (*slog.Logger, error) {
	var opts slog.HandlerOptions
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, &usageError{fmt.Errorf("--log-level %q: use debug, info, warn or error", level)}
	}
	opts.Level = l
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(stderr, &opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(stderr, &opts)), nil
	}
	return nil, &usageError{fmt.Errorf("--log-format %q: use text or json", format)}
}

// textVar declares a flag of a type that reads and writes itself as text, an
// address for one.
func textVar[T encoding.TextMarshaler, P interface {
	*T
	encoding.TextUnmarshaler
}](f *pflag.FlagSet, p P, name, usage string) {
	f.Var(&textValue[T, P]{p}, name, usage)
}

type textValue[T encoding.TextMarshaler, P interface {
	*T
	encoding.TextUnmarshaler
}] struct{ p P }

func (v *textValue[T, P]) String() string {
	if v.p == nil {
		return ""
	}
	b, err := (*v.p).MarshalText()
	if err != nil {
		return ""
	}
	return string(b)
}

func (v *textValue[T, P]) Set(s string) error { return v.p.UnmarshalText([]byte(strings.TrimSpace(s))) }

func (v *textValue[T, P]) Type() string {
	switch any(v.p).(type) {
	case interface{ Bits() int }:
		return "prefix"
	case *model.Pools:
		return "networks"
	}
	return "address"
}

// hide keeps flags out of a command's help that it takes, so that it may be
// given the agent's own settings, but has no use for.
func hide(but ...string) func(*pflag.Flag) {
	return func(f *pflag.Flag) { f.Hidden = !slices.Contains(but, f.Name) }
}
