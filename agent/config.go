package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

	Ready time.Duration // how long a task may take to accept connections before it enters rotation without; 0: it enters at once

	TCPTimeout    time.Duration // idle TCP connections in IPVS, whole seconds
	TCPFinTimeout time.Duration
	UDPTimeout    time.Duration

	MetricsAddr string // serve /metrics there too; "": on the API socket only
	// MetricsWebConfig is a file of the Prometheus exporter toolkit that says how
	// MetricsAddr is served: certificates, passwords; "": to all who reach it.
	MetricsWebConfig string
	Repair           time.Duration // the time between comparisons of the kernel with what should be; up to twice that where they take long

	UIAddr     string // serve the page of the cluster there, ADDRESS:PORT; "": nowhere
	UICert     string // files, PEM: its certificate; "": without TLS at a loopback address, else this host's own in the cluster
	UIKey      string
	UIClientCA string // clients of the page show a certificate of this CA, instead of the token

	Effective []api.Setting // all of these with where they come from, for those who ask; the agent goes by none of it
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

		Ready: 30 * time.Second,

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
// returns a [ConfigError] for each that cannot work, joined.
func (c *Config) Check() error {
	return errors.Join(
		c.checkNode(), checkServers(c), c.checkPool(), c.checkCluster(), c.checkPlane(), checkSocket(c),
		c.checkNames(), c.checkTimes(), c.checkEtcd(), c.checkPaths(), c.checkUI(), c.checkMetrics(),
	)
}

func (c *Config) checkNode() error {
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
	if c.Advertise.IsValid() && !c.Advertise.Is4() {
		return badSetting("--advertise %s: hosts reach each other by IPv4: name an IPv4 address of this host", c.Advertise)
	}
	return nil
}

// checkPool checks the pool of VIPs, and the addresses that are to lie in it.
func (c *Config) checkPool() error {
	switch {
	case !c.Pool.Addr().Is4():
		return badSetting("--pool %s: only IPv4 pools are balanced", c.Pool)
	case c.Pool != c.Pool.Masked():
		return badSetting("--pool %s: has host bits set; did you mean %s?", c.Pool, c.Pool.Masked())
	case c.Pool.Bits() > 28 || c.Pool.Bits() < 8:
		return badSetting("--pool %s: use a prefix of /8 to /28", c.Pool)
	case !c.Pool.Contains(c.DNS):
		return badSetting("--dns %s: must lie in the pool %s, see --pool", c.DNS, c.Pool)
	}
	if !c.DNSPeers.IsValid() {
		c.DNSPeers = c.DNS.Next()
	}
	if !c.Pool.Contains(c.DNSPeers) || c.DNSPeers == c.DNS {
		return badSetting("--dns-peers %s: must be another address than --dns %s in the pool %s, see --pool", c.DNSPeers, c.DNS, c.Pool)
	}
	return nil
}

func (c *Config) checkPlane() error {
	if err := checkPlane(c.DataPlane); err != nil {
		return badSetting("--data-plane %w", err)
	}
	return nil
}

// checkNames checks what concerns the DNS server, and the ports that labels may publish.
func (c *Config) checkNames() error {
	var bad []error
	for label := range strings.SplitSeq(c.Zone, ".") {
		if err := model.CheckLabel(label); err != nil {
			bad = append(bad, badSetting("--zone %q: %w", c.Zone, err))
			break
		}
	}
	for _, u := range c.Upstreams {
		if _, err := parseUpstream(u); err != nil {
			bad = append(bad, badSetting("--upstream: %w", err))
		}
	}
	if _, err := c.publishRanges(); err != nil {
		bad = append(bad, badSetting("--publish-ports: %w", err))
	}
	return errors.Join(bad...)
}

func (c *Config) checkTimes() error {
	var bad []error
	for _, t := range []struct {
		flag string
		d    time.Duration
	}{{"tcp-timeout", c.TCPTimeout}, {"tcp-fin-timeout", c.TCPFinTimeout}, {"udp-timeout", c.UDPTimeout}} {
		if t.d < time.Second || t.d > 31*24*time.Hour || t.d%time.Second != 0 {
			bad = append(bad, badSetting("--%s %s: use whole seconds from 1s to 744h", t.flag, t.d))
		}
	}
	if c.Repair < time.Second || c.Repair > time.Hour {
		bad = append(bad, badSetting("--repair %s: use 1s to 1h", c.Repair))
	}
	if c.Ready < 0 || c.Ready > time.Hour {
		bad = append(bad, badSetting("--ready-limit %s: use 0 (do not wait for ports) to 1h", c.Ready))
	}
	if c.VIPRest < 0 || c.VIPRest > 24*time.Hour {
		bad = append(bad, badSetting("--vip-rest %s: use 0 to 24h", c.VIPRest))
	}
	if c.VIPReclaim < 0 {
		bad = append(bad, badSetting("--vip-reclaim %s: use 0 (never) or more", c.VIPReclaim))
	}
	return errors.Join(bad...)
}

// checkEtcd checks what concerns an existing etcd.
func (c *Config) checkEtcd() error {
	var bad []error
	if len(c.Etcd) == 0 && (c.EtcdCA != "" || c.EtcdCert != "" || c.EtcdKey != "") {
		bad = append(bad, badSetting("--etcd-ca, --etcd-cert and --etcd-key need --etcd: the embedded etcd uses no certificates of yours"))
	}
	if (c.EtcdCert == "") != (c.EtcdKey == "") {
		bad = append(bad, badSetting("--etcd-cert and --etcd-key go together"))
	}
	if err := checkEndpoints(c.Etcd, c.EtcdCA != "" || c.EtcdCert != ""); err != nil {
		bad = append(bad, badSetting("--etcd %w", err))
	}
	return errors.Join(bad...)
}

func (c *Config) checkPaths() error {
	var bad []error
	if err := dockerwatch.CheckHost(c.Docker); err != nil {
		bad = append(bad, badSetting("--docker-host: %w", err))
	}
	for _, dir := range []string{c.StateDir, c.RunDir} {
		if !filepath.IsAbs(dir) {
			bad = append(bad, badSetting("%q: --state-dir and --run-dir must be absolute paths", dir))
		}
	}
	// sun_path holds 108 octets, unix(7).
	if s := api.Socket(c.RunDir); len(s) > 107 {
		bad = append(bad, badSetting("--run-dir %s: a unix socket's path holds 107 characters at most", c.RunDir))
	}
	return errors.Join(bad...)
}

// checkCluster checks what concerns other hosts.
func (c *Config) checkCluster() error {
	var bad []error
	for _, j := range c.Join {
		if _, err := parseServer(j); err != nil {
			bad = append(bad, badSetting("--join: %w", err))
		}
	}
	switch {
	case c.Token != "" && c.TokenFile != "":
		bad = append(bad, badSetting("--token and --token-file exclude each other"))
	case (c.Token != "" || c.TokenFile != "") && len(c.Join) == 0:
		bad = append(bad, badSetting("--token and --token-file need --join: the address of a host of the cluster"))
	}
	if len(c.Join) > 0 && len(c.Etcd) > 0 {
		bad = append(bad, badSetting("--join and --etcd exclude each other: hosts that share an etcd of yours find each other by it"))
	}
	switch {
	case len(c.SubnetPool) == 0 || slices.ContainsFunc(c.SubnetPool, func(p netip.Prefix) bool { return p != p.Masked() || !p.Addr().Is4() }):
		bad = append(bad, badSetting("--subnet-pool %s: use an IPv4 prefix without host bits, or several with commas between them", c.SubnetPool))
	case c.SubnetPool.Overlaps(c.Pool):
		bad = append(bad, badSetting("--subnet-pool %s overlaps --pool %s", c.SubnetPool, c.Pool))
	case c.SubnetBits > 28 || slices.ContainsFunc(c.SubnetPool, func(p netip.Prefix) bool { return c.SubnetBits <= p.Bits() }):
		bad = append(bad, badSetting("--subnet-bits %d: use at most 28, and more than the pools (--subnet-pool) have: %s", c.SubnetBits, c.SubnetPool))
	case c.SubnetPool.Check(c.SubnetBits) != nil:
		bad = append(bad, badSetting("--subnet-pool: %w", c.SubnetPool.Check(c.SubnetBits)))
	}
	if c.Network == "" {
		bad = append(bad, badSetting("--network: name a Docker network"))
	}
	if _, err := fabric.ParseBackend(string(c.Backend)); err != nil {
		bad = append(bad, badSetting("--backend: %w", err))
	}
	return errors.Join(bad...)
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
	if a, err := netip.ParseAddrPort(c.UIAddr); err == nil {
		own[lb.Key{Protocol: model.TCP, Port: a.Port()}] = "shoal's own, of --ui-addr"
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
		b, err = readTokenFile(c.TokenFile)
	}
	if err != nil {
		return "", badSetting("--token-file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	switch {
	case token == "" && c.TokenFile != "":
		return "", badSetting("--token-file %s: there is no token in it: write one into it, %s", c.TokenFile, whereTokensAre)
	case token == "":
		return "", badSetting("--join needs a token, by --token-file, SHOAL_TOKEN or --token: %s", whereTokensAre)
	}
	return token, nil
}

const (
	// maxToken is more than a token has characters.
	maxToken = 4096

	whereTokensAre = "sudo shoal token create prints one, on a host of the cluster"
)

func readTokenFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: make it, with a token in it: %s", err, whereTokensAre)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a folder: name the file in it that holds the token", path)
	}
	return io.ReadAll(io.LimitReader(f, maxToken))
}

// checkToken reports a token that this host cannot join by, as long as it has to: what has
// joined needs none. Where this user may not see whether it has, a file that is missing
// is no mistake.
func (c *Config) checkToken() error {
	if len(c.Join) == 0 || c.TokenFile == "-" {
		return nil
	}
	joined, unknown := cluster.Joined(filepath.Join(c.StateDir, identityFolder))
	if joined {
		return nil
	}
	token, err := c.readToken(nil)
	none := errors.Is(err, fs.ErrNotExist) || c.Token == "" && c.TokenFile == ""
	switch {
	case none && unknown != nil:
		return nil
	case err != nil:
		return err
	}
	if err := cluster.CheckToken(token); err != nil {
		if c.TokenFile != "" {
			return badSetting("--token-file %s: %w", c.TokenFile, err)
		}
		return badSetting("--token: %w", err)
	}
	return checkTokenMode(c.TokenFile)
}

// checkTokenMode reports a file with a token that not only its owner may read.
func checkTokenMode(path string) error {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return badSetting("--token-file %s: its mode is %04o, so that others than its owner may read or change it; whoever has the token joins the cluster: chmod 600 %[1]s", path, info.Mode().Perm())
}

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

// CheckFiles returns a [ConfigError] for each kind of certificates, and for the token, that
// the settings name and that cannot be used. A file that this user may not read is no
// mistake, unless that is root, as who the agent runs.
func (c *Config) CheckFiles() error {
	_, etcd := c.etcdTLS()
	_, page := c.uiTLS(nil)
	var bad []error
	for _, err := range []error{etcd, page, c.checkToken()} {
		if err != nil && (!errors.Is(err, fs.ErrPermission) || os.Geteuid() == 0) {
			bad = append(bad, err)
		}
	}
	return errors.Join(bad...)
}

// errNotRoot is the one sentence for who forgot sudo.
var errNotRoot = errors.New("shoal agent writes to the kernel's network tables and needs root: run it with sudo")
