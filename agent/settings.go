package agent

import (
	"strconv"

	"shoal/model"
)

// Shared are the settings that have to be the same on all hosts: VIPs, names and subnets
// are the cluster's, and two hosts speak with each other by one transport. Each host hands
// out VIPs after its own --vip-rest: the shortest in the cluster is the one in force, and
// the others promise what is not kept. And a host with --servers manual never serves the
// store by itself, while the others take it for the next that does: as long as it is the
// first of those that could, none does (serverStep).
func (c *Config) Shared() model.Settings {
	shared := map[string]string{
		"pool":        c.Pool.String(),
		"dns":         c.DNS.String(),
		"dns-peers":   c.DNSPeers.String(),
		"zone":        c.Zone,
		"network":     c.Network,
		"flat-names":  strconv.FormatBool(c.FlatNames),
		"subnet-pool": c.SubnetPool.String(),
		"subnet-bits": strconv.Itoa(c.SubnetBits),
		"backend":     string(c.Backend),
		"vxlan-port":  strconv.Itoa(int(c.VXLANPort)),
		"vxlan-vni":   strconv.Itoa(c.VNI),
		"vip-rest":    c.VIPRest.String(),
	}
	if len(c.Etcd) == 0 { // else no host serves the store
		shared["servers"] = c.Servers
	}
	return model.NewSettings(shared)
}
