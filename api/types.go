package api

import (
	"net/netip"
	"time"

	"shoal/model"
)

// Status is the agent at a glance.
type Status struct {
	Version  string     `json:"version"`
	Node     string     `json:"node"`
	Addr     netip.Addr `json:"addr"`
	Pid      int        `json:"pid"`
	Started  time.Time  `json:"started"`
	Kernel   string     `json:"kernel"`
	Plane    string     `json:"dataPlane"`       // "ipvs" or "nftables"
	PlaneWhy string     `json:"dataPlaneReason"` // why that one

	// SocketGroup is the control group, a folder, whose processes' connections to VIPs
	// are led in connect(), in front of the data plane. "": nobody's, for the reason
	// SocketWhy; else that says what is not done for them.
	SocketGroup string `json:"socketCgroup"`
	SocketWhy   string `json:"socketReason,omitempty"`

	Pool     netip.Prefix `json:"pool"`
	DNS      netip.Addr   `json:"dns"`
	Zone     string       `json:"zone"`
	Engine   string       `json:"engine"` // "connected", or why not
	Store    StoreStatus  `json:"store"`
	Nodes    []model.Node `json:"nodes"`
	Dead     []string     `json:"dead,omitempty"` // those of them that this host considers dead
	Services int          `json:"services"`
	Tasks    int          `json:"tasks"`
	Rotation int          `json:"inRotation"`
	Problems int          `json:"problems"` // of this host
	Notices  int          `json:"notices,omitempty"`
}

// StoreStatus is how the agent fares with its store.
type StoreStatus struct {
	Endpoints   []string `json:"endpoints"`            // of etcd
	Embedded    bool     `json:"embedded"`             // etcd runs in the agent's process
	Role        string   `json:"role"`                 // this host's part in keeping it
	Connected   bool     `json:"connected"`            // etcd answers
	Leader      string   `json:"leader,omitempty"`     // raft's ID of the leader, in hex
	Version     string   `json:"version,omitempty"`    // etcd's
	DBSize      int64    `json:"dbSize"`               // bytes on etcd's disk
	Revision    int64    `json:"revision"`             // etcd's, that the records are at
	Lease       string   `json:"lease,omitempty"`      // of this host's records, in hex
	Unsaved     int      `json:"unsaved"`              // records that are not written to etcd yet
	Unreadable  []string `json:"unreadable,omitempty"` // keys of records that are skipped
	FromCache   bool     `json:"fromCache"`            // the state is of the last run, from disk
	Listed      []string `json:"listed,omitempty"`     // hosts whose containers are taken from themselves, as the store does not have their last changes
	Snapshot    uint64   `json:"snapshot"`             // revision; 0: none yet
	SnapshotAge Duration `json:"snapshotAge"`
	Waiting     string   `json:"waiting,omitempty"`   // what the first Snapshot waits for
	LastError   string   `json:"lastError,omitempty"` // of etcd, "" while all is well
}

// ServiceView is a service as the command line shows it.
type ServiceView struct {
	ID         string       `json:"id"`
	Mode       model.Mode   `json:"mode"`
	VIP        netip.Addr   `json:"vip,omitzero"`
	Scheduler  string       `json:"scheduler,omitempty"`
	Ports      []model.Port `json:"ports"` // none: every port
	Tasks      int          `json:"tasks"`
	InRotation int          `json:"inRotation"`
	IdleSince  time.Time    `json:"idleSince,omitzero"`
}

// TaskView is a task as the command line shows it.
type TaskView struct {
	Service   string      `json:"service"`   // stack/name
	Node      string      `json:"node"`      // the host it runs on
	Container string      `json:"container"` // full ID
	Name      string      `json:"name"`      // the container's name
	Addr      netip.Addr  `json:"addr"`
	State     model.State `json:"state"`
	Reason    string      `json:"reason,omitempty"` // of a starting one: what it waits for
	Since     time.Time   `json:"since"`            // when it came into State
	Drain     Duration    `json:"drain"`            // the most it may take to drain
	Weight    int         `json:"weight"`           // 0 to 65535
	Started   time.Time   `json:"started"`          // when its container started
	Spec      SpecView    `json:"spec"`
}

// SpecView is what a task's labels say of its service.
type SpecView struct {
	model.Spec
	Affinity Duration `json:"affinity,omitempty"` // in the place of that of model.Spec
}

// NodeView is a host as the command line shows it.
type NodeView struct {
	model.Node
	Alive  bool     `json:"alive"`
	Reason string   `json:"reason,omitempty"` // why this host thinks so
	RTT    Duration `json:"rtt,omitempty"`
	Role   string   `json:"role"` // in the embedded etcd: "server", "learner", "client"; "" with an external one, and while it is not known
	Tasks  int      `json:"tasks"`

	Transport string `json:"transport,omitempty"` // how its containers are reached: "host-gw", "vxlan", "ipip"; "": they are not, or it is this host
}

// Setting is a setting of an agent, as it goes by it.
type Setting struct {
	Name   string `json:"name"`            // of its flag
	Value  string `json:"value"`           // as the flag takes it; of a secret, a text that is none
	Source string `json:"source"`          // "flag", "variable", "file" or "default"
	Place  string `json:"place,omitempty"` // the variable's name; of the file, PATH:LINE
}

// RoleAnswer is the result of a change of a host's role.
type RoleAnswer struct {
	Advice string `json:"advice,omitempty"` // not empty where the number of servers is no good one
}

// Token is a new join token and the command that uses it.
type Token struct {
	Token   string   `json:"token"`
	Command string   `json:"command"`
	TTL     Duration `json:"ttl"`
	Uses    int      `json:"uses"`
}

// TokenInfo is a join token that was made before, without its secret.
type TokenInfo struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Uses    int       `json:"uses"` // left
}

// Stopped is the result of stopping a container.
type Stopped struct {
	Container string   `json:"container"`
	Tasks     []string `json:"tasks"`             // the services it was a task of
	Drained   Duration `json:"drained"`           // how long that took
	Held      int      `json:"held"`              // connections that were cut off at the deadline; 0: none
	Unasked   []string `json:"unasked,omitempty"` // hosts that did not tell what they hold
}

// RemovedService is the service that was removed.
type RemovedService struct {
	ID string `json:"id"` // stack/name
}

// Explanation is the way from a name to its tasks, as far as it goes.
type Explanation struct {
	What    string `json:"what"`
	OK      bool   `json:"ok"`
	Verdict string `json:"verdict,omitempty"` // where it first stops and what to do; "" if it does not
	Steps   []Step `json:"steps"`
}

// Step is one step of the way, with what was seen there just now.
type Step struct {
	What     string `json:"what"`
	Node     string `json:"node,omitempty"` // of a trace: the host where it was seen
	OK       bool   `json:"ok"`
	Evidence string `json:"evidence"`         // the first line says it; the others are what it is known by
	Remedy   string `json:"remedy,omitempty"` // what to do; "" of a step that holds
	Kernel   bool   `json:"kernel,omitempty"` // nothing but what the kernel has, for those who want to see that
}

// Lookup is what the DNS server answers, and why.
type Lookup struct {
	Name    string   `json:"name"`
	From    string   `json:"from"`
	Answers []string `json:"answers"`
	Reason  string   `json:"reason"`
}

// ViewTask is a task as the command line shows it.
func ViewTask(t *model.Task) TaskView {
	return TaskView{
		Service: t.Service.String(), Node: t.Node, Container: t.Container, Name: t.Name, Addr: t.Addr,
		State: t.State, Reason: t.Reason, Since: t.Since, Drain: Duration(t.Drain), Weight: t.Weight, Started: t.Started,
		Spec: SpecView{*t.Spec, Duration(t.Spec.Affinity)},
	}
}

// Identity of an object is what -o name prints of it.
func (s Status) Identity() string { return s.Node }

// Identity is stack/name.
func (s ServiceView) Identity() string { return s.ID }

// Identity is the container's name.
func (t TaskView) Identity() string { return t.Name }

// Identity is the host's name.
func (n NodeView) Identity() string { return n.Name }

// Identity is the name of the setting's flag.
func (s Setting) Identity() string { return s.Name }

// Identity is the token's ID, which is no secret.
func (t TokenInfo) Identity() string { return t.ID }

// Identity is the container's name or ID, as it was given.
func (s Stopped) Identity() string { return s.Container }

// Identity is what was asked about.
func (e Explanation) Identity() string { return e.What }

// Identity is the name that was asked for.
func (l Lookup) Identity() string { return l.Name }
