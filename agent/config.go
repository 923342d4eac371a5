package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"shoal/api"
	"shoal/cluster"
	"shoal/dockerwatch"
	"shoal/fabric"
	"shoal/fabric/vxlan"
	"shoal/ingress"
	"shoal/lb"
	"shoal/model"
	"shoal/store"
)

// Config is everything that can be set of an agent. [Defaults] fills it,
// [Config.Check] says whether it can work.
type Config struct {
	Node      string     // this host's name in the cluster, a DNS label; "": the host name
	Advertise netip.Addr // this host's address; zero: the source of its default route
	StateDir  string     // what must outlive a restart
	RunDir    string     // the API socket
	Docker    string     // the engine's socket, as in DOCKER_HOST

	Pool       netip.Prefix  // VIPs
	DNS        netip.Addr    // the address in Pool the DNS server answers on
	DNSPeers   netip.Addr    // the address in Pool that leads to other hosts' DNS servers; zero: the one after DNS
	Zone       string        // the mesh's DNS zone, without a trailing dot
	FlatNames  bool          // a name without a stack may mean a service of any stack
	Upstreams  []string      // resolvers for other names, ADDR[:PORT]; none: those of ResolvConf
	ResolvConf string        // a resolv.conf(5), read again when it changes
	Publish    []string      // the ports that labels may publish, PORT or FIRST-LAST; none: all but the host's own
	VIPReclaim time.Duration // in a full pool, take back the VIP of a service idle this long; 0: never
	VIPRest    time.Duration // a VIP is handed to no other service until this long after the last task of the one that had it

	Join      []string // hosts of the cluster to join, ADDR[:PORT]; none: this is the first
	Token     string   // to join by; not needed any more once this host has joined
	TokenFile string   // a file that holds it instead; "-": standard input

	SubnetPool model.Pools    // addresses for containers
	SubnetBits int            // the prefix length of each host's part of it
	Network    string         // the Docker network of the mesh: "mesh", made by the agent, or an existing one such as "bridge"
	Backend    fabric.Backend // how containers reach those of other hosts
	NoOffload  bool           // checksums of what goes into a vxlan tunnel are the processor's work: some cards spoil them
	VXLANPort  uint16         // UDP port of vxlan
	VNI        int            // of vxlan: the number of the network, 1 to 2²⁴-1

	TellManagers bool // have systemd-networkd and NetworkManager leave alone what is shoal's

	Etcd     []string // endpoints of an existing etcd; none: the embedded one
	EtcdCA   string   // files, PEM
	EtcdCert string
	EtcdKey  string

	Servers       string        // who serves the embedded etcd: auto (three hosts, chosen by themselves) or manual
	ReplaceServer time.Duration // with auto: how long a server may be dead before another host takes its place

	DataPlane string // what balances: auto, ipvs or nftables

	SocketBalancing string // whether connect() balances in front of it: auto or off
	SocketCgroup    string // whose connect() that is, a folder of the version 2 hierarchy of control groups; "": its root

	TCPTimeout    time.Duration // idle TCP connections in IPVS, whole seconds
	TCPFinTimeout time.Duration
	UDPTimeout    time.Duration

	MetricsAddr string        // serve /metrics there too; "": on the API socket only
	Repair      time.Duration // the time between comparisons of the kernel with what should be; up to twice that where they take long
}

// Defaults are the settings of an agent nobody configured.
func Defaults() Config {
	return Config{
		StateDir: "/var/lib/shoal",
		RunDir:   api.DefaultRunDir,
		Docker:   "unix:///var/run/docker.sock",
		Pool:     netip.MustParsePrefix("10.96.0.0/16"),
		DNS:      netip.MustParseAddr("10.96.0.10"),
		Zone:     "mesh.internal",

		ResolvConf: "/etc/resolv.conf",
		VIPReclaim: 7 * 24 * time.Hour,
		VIPRest:    10 * time.Minute,

		SubnetPool: model.Pools{netip.MustParsePrefix("10.244.0.0/16")},
		SubnetBits: 24,
		Network:    meshNetwork,
		Backend:    fabric.Auto,
		VXLANPort:  vxlan.DefaultPort,
		VNI:        vxlan.DefaultVNI,

		Servers:       serversAuto,
		ReplaceServer: 10 * time.Minute,

		DataPlane: planeAuto,

		SocketBalancing: socketAuto,

		TellManagers: true,

		// Linux probes an idle connection with SO_KEEPALIVE first after
		// tcp_keepalive_time = 7200 s (ip-sysctl): the balancer must not
		// forget it before. The kernel's default of 900 s does.
		TCPTimeout:    7440 * time.Second,
		TCPFinTimeout: 120 * time.Second,
		UDPTimeout:    300 * time.Second,

		Repair: 10 * time.Second,
	}
}

// ConfigError is a setting that cannot work; the command exits with 2 on it.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

func badSetting(format string, args ...any) error {
	return &ConfigError{fmt.Errorf(format, args...)}
}

// Check completes the settings that have a default of this host's own and
// returns a [ConfigError] for the first that cannot work.
func (c *Config) Check() error {
	if c.Node == "" {
		name, err := os.Hostname()
		if err != nil {
			return badSetting("--node: no host name to use: %w", err)
		}
		short, _, _ := strings.Cut(name, ".")
		c.Node = strings.ToLower(short)
	}
	if err := model.CheckLabel(c.Node); err != nil {
		return badSetting("--node: %w", err)
	}
	if err := checkServers(c); err != nil {
		return err
	}
	if c.Pool != c.Pool.Masked() {
		return badSetting("--pool %s: has host bits set; did you mean %s?", c.Pool, c.Pool.Masked())
	}
	if !c.Pool.Addr().Is4() {
		return badSetting("--pool %s: only IPv4 pools are balanced", c.Pool)
	}
	if c.Pool.Bits() > 28 || c.Pool.Bits() < 8 {
		return badSetting("--pool %s: use a prefix of /8 to /28", c.Pool)
	}
	if !c.Pool.Contains(c.DNS) {
		return badSetting("--dns %s: must lie in the pool %s", c.DNS, c.Pool)
	}
	if !c.DNSPeers.IsValid() {
		c.DNSPeers = c.DNS.Next()
	}
	if !c.Pool.Contains(c.DNSPeers) || c.DNSPeers == c.DNS {
		return badSetting("--dns-peers %s: must be another address than %s in the pool %s", c.DNSPeers, c.DNS, c.Pool)
	}
	if err := c.checkCluster(); err != nil {
		return err
	}
	if err := checkPlane(c.DataPlane); err != nil {
		return badSetting("--data-plane %w", err)
	}
	if err := checkSocket(c); err != nil {
		return err
	}
	for label := range strings.SplitSeq(c.Zone, ".") {
		if err := model.CheckLabel(label); err != nil {
			return badSetting("--zone %q: %w", c.Zone, err)
		}
	}
	for _, u := range c.Upstreams {
		if _, err := parseUpstream(u); err != nil {
			return badSetting("--upstream: %w", err)
		}
	}
	for _, t := range []struct {
		flag string
		d    time.Duration
	}{{"tcp-timeout", c.TCPTimeout}, {"tcp-fin-timeout", c.TCPFinTimeout}, {"udp-timeout", c.UDPTimeout}} {
		if t.d < time.Second || t.d > 31*24*time.Hour || t.d%time.Second != 0 {
			return badSetting("--%s %s: use whole seconds from 1s to 744h", t.flag, t.d)
		}
	}
	if c.Repair < time.Second || c.Repair > time.Hour {
		return badSetting("--repair %s: use 1s to 1h", c.Repair)
	}
	if _, err := c.publishRanges(); err != nil {
		return badSetting("--publish-ports: %w", err)
	}
	if c.VIPRest < 0 || c.VIPRest > 24*time.Hour {
		return badSetting("--vip-rest %s: use 0 to 24h", c.VIPRest)
	}
	if c.VIPReclaim < 0 {
		return badSetting("--vip-reclaim %s: use 0 (never) or more", c.VIPReclaim)
	}
	if len(c.Etcd) == 0 && (c.EtcdCA != "" || c.EtcdCert != "" || c.EtcdKey != "") {
		return badSetting("--etcd-ca, --etcd-cert and --etcd-key need --etcd: the embedded etcd uses no certificates of yours")
	}
	if (c.EtcdCert == "") != (c.EtcdKey == "") {
		return badSetting("--etcd-cert and --etcd-key go together")
	}
	if err := checkEndpoints(c.Etcd, c.EtcdCA != "" || c.EtcdCert != ""); err != nil {
		return badSetting("--etcd %w", err)
	}
	if err := dockerwatch.CheckHost(c.Docker); err != nil {
		return badSetting("--docker-host: %w", err)
	}
	for _, dir := range []string{c.StateDir, c.RunDir} {
		if !filepath.IsAbs(dir) {
			return badSetting("%q: --state-dir and --run-dir must be absolute paths", dir)
		}
	}
	// sun_path holds 108 octets, unix(7).
	if s := api.Socket(c.RunDir); len(s) > 107 {
		return badSetting("--run-dir %s: a unix socket's path holds 107 characters at most", c.RunDir)
	}
	if c.MetricsAddr != "" {
		if _, _, err := net.SplitHostPort(c.MetricsAddr); err != nil {
			return badSetting("--metrics-addr: %w; write it as ADDR:PORT", err)
		}
	}
	return nil
}

// checkCluster checks what concerns other hosts.
func (c *Config) checkCluster() error {
	for _, j := range c.Join {
		if _, err := parseServer(j); err != nil {
			return badSetting("--join: %w", err)
		}
	}
	switch {
	case c.Token != "" && c.TokenFile != "":
		return badSetting("--token and --token-file exclude each other")
	case (c.Token != "" || c.TokenFile != "") && len(c.Join) == 0:
		return badSetting("--token and --token-file need --join: the address of a host of the cluster")
	case len(c.Join) > 0 && len(c.Etcd) > 0:
		return badSetting("--join and --etcd exclude each other: hosts that share an etcd of yours find each other by it")
	case len(c.SubnetPool) == 0 || slices.ContainsFunc(c.SubnetPool, func(p netip.Prefix) bool { return p != p.Masked() || !p.Addr().Is4() }):
		return badSetting("--subnet-pool %s: use an IPv4 prefix without host bits, or several with commas between them", c.SubnetPool)
	case c.SubnetPool.Overlaps(c.Pool):
		return badSetting("--subnet-pool %s overlaps --pool %s", c.SubnetPool, c.Pool)
	case c.SubnetBits > 28 || slices.ContainsFunc(c.SubnetPool, func(p netip.Prefix) bool { return c.SubnetBits <= p.Bits() }):
		return badSetting("--subnet-bits %d: use at most 28, and more than the pools have: %s", c.SubnetBits, c.SubnetPool)
	case c.SubnetPool.Check(c.SubnetBits) != nil:
		return badSetting("--subnet-pool: %w", c.SubnetPool.Check(c.SubnetBits))
	case c.Network == "":
		return badSetting("--network: name a Docker network")
	}
	if _, err := fabric.ParseBackend(string(c.Backend)); err != nil {
		return badSetting("--backend: %w", err)
	}
	return nil
}

// publishRanges are the ports that labels may publish.
func (c *Config) publishRanges() (ranges []ingress.PortRange, err error) {
	for _, s := range c.Publish {
		r, err := ingress.ParsePortRange(s)
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}

// hostFiles is where the host's file system is seen, also by an agent in a container
// that has the host's processes.
const hostFiles = "/proc/1/root"

// policy says which ports labels may publish.
func (c *Config) policy() (*ingress.Policy, error) {
	ranges, err := c.publishRanges()
	if err != nil {
		return nil, err
	}
	own := map[lb.Key]string{}
	for _, port := range []uint16{cluster.DefaultPort, cluster.DefaultGossipPort, store.ClientPort, store.PeerPort} {
		own[lb.Key{Protocol: model.TCP, Port: port}] = "shoal's own, between hosts"
	}
	own[lb.Key{Protocol: model.UDP, Port: cluster.DefaultGossipPort}] = "shoal's own, between hosts"
	own[lb.Key{Protocol: model.UDP, Port: c.VXLANPort}] = "shoal's own, of vxlan"
	if _, port, err := net.SplitHostPort(c.MetricsAddr); err == nil {
		if n, err := net.LookupPort("tcp", port); err == nil {
			own[lb.Key{Protocol: model.TCP, Port: uint16(n)}] = "shoal's own, of --metrics-addr"
		}
	}
	return ingress.NewPolicy(ranges, own, hostFiles), nil
}

// readToken finds the token to join by.
func (c *Config) readToken(stdin io.Reader) (string, error) {
	var b []byte
	var err error
	switch c.TokenFile {
	case "":
		b = []byte(c.Token)
	case "-":
		b, err = io.ReadAll(io.LimitReader(stdin, maxToken))
	default:
		b, err = os.ReadFile(c.TokenFile)
	}
	if err != nil {
		return "", badSetting("--token-file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	switch {
	case token == "" && c.TokenFile != "":
		return "", badSetting("--token-file %s: there is no token in it", c.TokenFile)
	case token == "":
		return "", badSetting("--join needs a token, by --token-file, SHOAL_TOKEN or --token: sudo shoal token create prints one, on a host of the cluster")
	}
	return token, nil
}

// maxToken is more than a token has characters.
const maxToken = 4096

// parseUpstream reads a resolver's ADDR or ADDR:PORT.
func parseUpstream(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("resolver %q: write it as ADDR or ADDR:PORT", s)
	}
	return ap, nil
}

// etcdTLS reads the certificates for an existing etcd; nil if none are set.
func (c *Config) etcdTLS() (*tls.Config, error) {
	if c.EtcdCA == "" && c.EtcdCert == "" {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.EtcdCA != "" {
		pem, err := os.ReadFile(c.EtcdCA)
		if err != nil {
			return nil, badSetting("--etcd-ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, badSetting("--etcd-ca %s: holds no certificate in PEM form", c.EtcdCA)
		}
	}
	if c.EtcdCert != "" {
		pair, err := tls.LoadX509KeyPair(c.EtcdCert, c.EtcdKey)
		if err != nil {
			return nil, badSetting("--etcd-cert, --etcd-key: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// errNotRoot is the one sentence for who forgot sudo.
var errNotRoot = errors.New("shoal agent writes to the kernel's network tables and needs root: run it with sudo")
