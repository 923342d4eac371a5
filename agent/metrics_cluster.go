package agent

import (
	"crypto/tls"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"shoal/cluster"
	"shoal/lb/host"
	"shoal/lb/socket"
	"shoal/model"
	"shoal/store"
)

var (
	nodesDesc = prometheus.NewDesc("shoal_nodes", "Hosts of the cluster, as this one sees them, itself among them, by state: alive or dead.",
		[]string{"state"}, nil)
	nodeDesc = prometheus.NewDesc("shoal_node_up", "1 while this host considers the other host alive, 0 while it considers it dead.",
		[]string{"node"}, nil)
	roundTripDesc = prometheus.NewDesc("shoal_node_round_trip_seconds", "Time that the other host's agent took to answer the last time it was asked whether it lives.",
		[]string{"node"}, nil)
	expiryDesc = prometheus.NewDesc("shoal_certificate_expiration_timestamp_seconds", "When a certificate ends, in seconds since 1970: node (this host's, renewed by itself), ca (the cluster's) or etcd_client (of --etcd-cert).",
		[]string{"certificate"}, nil)

	storeInfoDesc = prometheus.NewDesc("shoal_store_info", "1, labelled with this host's part in keeping the store: alone, server, client or external.",
		[]string{"role"}, nil)
	storeSizeDesc = prometheus.NewDesc("shoal_store_database_size_bytes", "Size of the database of this host's own etcd; there is none on a client of the store.",
		nil, nil)
	storeFullDesc = prometheus.NewDesc("shoal_store_full", "1 while etcd holds as much as it may, and takes no more writes of this host.",
		nil, nil)
	unsavedDesc = prometheus.NewDesc("shoal_store_unsaved_records", "Records of this host that are not written to the store yet.",
		nil, nil)
	diskFreeDesc = prometheus.NewDesc("shoal_state_disk_free_bytes", "Room left on the disk of the state folder.",
		nil, nil)
)

// clusterMetrics are what this host knows of the others, and of the store.
type clusterMetrics struct{ a *Agent }

func (*clusterMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodesDesc, nodeDesc, roundTripDesc, expiryDesc, storeInfoDesc, storeSizeDesc, storeFullDesc, unsavedDesc, diskFreeDesc} {
		ch <- d
	}
}

func (m *clusterMetrics) Collect(ch chan<- prometheus.Metric) {
	a := m.a
	collectNodes(ch, a.member.peerStates())
	for certificate, ends := range a.certificates() {
		gaugeOf(ch, expiryDesc, ends.Unix(), certificate)
	}
	gaugeOf(ch, storeInfoDesc, 1, string(a.store.Role()))
	if size, err := store.DatabaseSize(a.config.StateDir); err == nil && !a.member.external() && a.store.Role() != store.RoleClient {
		gaugeOf(ch, storeSizeDesc, size)
	}
	gaugeOf(ch, storeFullDesc, oneIf(a.catalog.Full()))
	gaugeOf(ch, unsavedDesc, a.catalog.Status().Unsaved)
	if free, err := store.Free(a.config.StateDir); err == nil {
		gaugeOf(ch, diskFreeDesc, free)
	}
}

// collectNodes tells which hosts live. Of very many, those that are dead have
// series of their own first.
func collectNodes(ch chan<- prometheus.Metric, peers []cluster.PeerState) {
	dead := 0
	for _, p := range peers {
		if !p.Alive {
			dead++
		}
	}
	gaugeOf(ch, nodesDesc, len(peers)-dead+1, "alive")
	gaugeOf(ch, nodesDesc, dead, "dead")
	left := maxNodeSeries
	for _, alive := range []bool{false, true} {
		for _, p := range peers {
			if p.Alive != alive || left == 0 {
				continue
			}
			left--
			gaugeOf(ch, nodeDesc, oneIf(alive), p.Node)
			if alive && p.RTT > 0 {
				gaugeOf(ch, roundTripDesc, p.RTT.Seconds(), p.Node)
			}
		}
	}
}

// peerStates are the verdicts on the other hosts; none while this one is alone.
func (m *membership) peerStates() []cluster.PeerState {
	m.mu.Lock()
	live := m.live
	m.mu.Unlock()
	if live == nil {
		return nil
	}
	return live.States()
}

// certificates are the ends of those that this host uses, by what they are for.
func (a *Agent) certificates() map[string]time.Time {
	ends := map[string]time.Time{"node": a.member.id.Expires(), "ca": a.member.id.CAExpires()}
	if a.config.EtcdCert != "" {
		if pair, err := tls.LoadX509KeyPair(a.config.EtcdCert, a.config.EtcdKey); err == nil {
			ends["etcd_client"] = pair.Leaf.NotAfter
		}
	}
	return ends
}

var (
	readyDesc = prometheus.NewDesc("shoal_ready", "1 while /readyz says that this host's part of the mesh is set up, else 0.",
		nil, nil)
	problemsDesc = prometheus.NewDesc("shoal_problems", "What shoal problems lists of this host, by code; the severity is problem, or notice of what works, but not exactly as was asked for.",
		[]string{"code", "severity"}, nil)
	planeDesc = prometheus.NewDesc("shoal_data_plane_info", "1, labelled with the data plane that balances, and with whether connections to VIPs are led in connect() before it.",
		[]string{"plane", "socket_balancing"}, nil)
	vipsDesc = prometheus.NewDesc("shoal_vip_pool_used_addresses", "VIPs that services have.",
		nil, nil)
	poolDesc = prometheus.NewDesc("shoal_vip_pool_addresses", "Addresses of the pool that services can have as VIPs.",
		nil, nil)
	trackedDesc = prometheus.NewDesc("shoal_conntrack_entries", "Connections that the kernel tracks on this host.",
		nil, nil)
	trackedLimitDesc = prometheus.NewDesc("shoal_conntrack_entries_limit", "Connections that the kernel tracks at most: it drops new ones beyond.",
		nil, nil)
	socketMapDesc = prometheus.NewDesc("shoal_socket_map_entries", "Entries of the BPF maps that balancing in connect() needs, by map: services, slots, backends, affinity or peers.",
		[]string{"map"}, nil)
	socketMapLimitDesc = prometheus.NewDesc("shoal_socket_map_entries_limit", "Entries that such a BPF map holds at most.",
		[]string{"map"}, nil)
)

// hostMetrics are what this host is, and what ails it.
type hostMetrics struct{ a *Agent }

func (*hostMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{readyDesc, problemsDesc, planeDesc, vipsDesc, poolDesc, trackedDesc, trackedLimitDesc, socketMapDesc, socketMapLimitDesc} {
		ch <- d
	}
}

func (m *hostMetrics) Collect(ch chan<- prometheus.Metric) {
	a := m.a
	gaugeOf(ch, readyDesc, oneIf(a.ready() == nil))
	connect := "false"
	if a.plane.socketGroup != "" {
		connect = "true"
	}
	gaugeOf(ch, planeDesc, 1, a.plane.Name(), connect)
	if s := a.catalog.Snapshot(); s != nil {
		used := 0
		for _, svc := range s.Services {
			if svc.VIP.IsValid() {
				used++
			}
		}
		gaugeOf(ch, vipsDesc, used)
	}
	gaugeOf(ch, poolDesc, poolSize(a.config.Pool))
	for k, n := range countProblems(a.ownProblems(), a.config.Node) {
		gaugeOf(ch, problemsDesc, n, string(k.code), k.severity)
	}
	if entries, limit, err := host.Tracked(); err == nil && limit > 0 {
		gaugeOf(ch, trackedDesc, entries)
		gaugeOf(ch, trackedLimitDesc, limit)
	}
	if a.plane.led != nil {
		sizes, err := a.plane.led.Sizes()
		if err != nil {
			ch <- prometheus.NewInvalidMetric(socketMapDesc, err)
		}
		collectSocketMaps(ch, sizes)
	}
}

// collectSocketMaps tells how much of the maps is in use that connect() is led by.
func collectSocketMaps(ch chan<- prometheus.Metric, sizes []socket.Size) {
	for _, s := range sizes {
		gaugeOf(ch, socketMapDesc, s.Entries, s.Map)
		gaugeOf(ch, socketMapLimitDesc, s.Limit, s.Map)
	}
}

// poolSize is how many VIPs there can be: the pool without its first and last
// address, and the two of the DNS server.
func poolSize(pool netip.Prefix) int { return 1<<(pool.Addr().BitLen()-pool.Bits()) - 4 }

type problemClass struct {
	code     model.Code
	severity string
}

// countProblems counts what a host found out about itself: what it was told of
// others, they count.
func countProblems(ps []model.Problem, node string) map[problemClass]int {
	n := map[problemClass]int{}
	for _, p := range ps {
		if p.Node != "" && p.Node != node {
			continue
		}
		severity := "problem"
		if p.Notice {
			severity = "notice"
		}
		n[problemClass{p.Code, severity}]++
	}
	return n
}
