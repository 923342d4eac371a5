package preflight

import (
	"net/netip"
	"slices"

	"shoal/dockerwatch"
	"shoal/managers"
	"shoal/model"
)

// Facts are what a host is like.
type Facts struct {
	Root    bool   // the caller is root
	Release string // of the kernel, "6.12.41"
	Distro  Distro

	Planes      []Plane // those that may be used, the preferred one in front
	BrNetfilter bool    // it is there, or can be loaded

	Engine      dockerwatch.EngineInfo
	EngineError error // why it does not answer; nil: it does

	VIPs       netip.Prefix // the pool of VIPs
	Containers model.Pools  // those of containers

	Address        error   // why no address of this host is known; nil: it is
	Overlap        []error // what overlaps the pools of addresses
	OverlapUnknown []error // why that could not be found out

	Ports []Port // those that shoal listens on and somebody else has

	IPTables  IPTables
	Firewalld bool    // it runs
	UFW       bool    // it is enabled
	Drops     []Chain // of nftables, with the policy drop, that are neither iptables' nor shoal's

	Networkd       managers.NetworkdState
	NetworkManager bool // it runs
	Tell           bool // the agent tells both

	Cgroup2 bool  // the unified hierarchy is mounted alone
	Unled   error // why connections to VIPs cannot be led in connect(), as far as control groups tell; nil: they can

	TableBits, TableAdvised int // of IPVS's table of connections: it has 2^n buckets; 0: not loaded
}

// Distro is what the host runs, by the names of os-release(5).
type Distro struct {
	ID   string   // "debian"
	Like []string // "rhel", "fedora"
}

// is tells whether it is one of those, or like one.
func (d Distro) is(ids ...string) bool {
	return slices.ContainsFunc(append([]string{d.ID}, d.Like...), func(id string) bool { return slices.Contains(ids, id) })
}

// Plane is a data plane.
type Plane struct {
	Name  string
	Lacks error // why this kernel cannot do it; nil: it can
}

// Port is one that shoal listens on, and who has it.
type Port struct {
	Protocol model.Protocol
	Addr     netip.AddrPort
	Holder   string // "dnsmasq (pid 612) listens on 0.0.0.0:53"
	DNS      bool   // it is for names; else for the cluster
}

// IPTables is what the host has of iptables.
type IPTables struct {
	Found  bool   // there is such a program
	Writes string // "nf_tables" or "legacy"; "": it does not tell
	Legacy bool   // there are tables of the legacy kind
	NFT    bool   // there are tables of the other
}

// Chain is one of nftables, that every packet meets.
type Chain struct{ Family, Table, Name, Hook string }
