package model

import (
	"cmp"
	"encoding"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// DefaultStack is the stack of a service that names none and whose container
// belongs to no Compose project.
const DefaultStack = "default"

// ServiceID names a service: a name within a stack, both DNS labels
// (RFC 1123 section 2.1), in lower case.
type ServiceID struct {
	Stack string `json:"stack"`
	Name  string `json:"name"`
}

// String is "stack/name".
func (id ServiceID) String() string { return id.Stack + "/" + id.Name }

// Compare orders by stack, then by name.
func (id ServiceID) Compare(o ServiceID) int {
	return cmp.Or(strings.Compare(id.Stack, o.Stack), strings.Compare(id.Name, o.Name))
}

// ParseServiceID reads "stack/name", or "name" in the default stack.
func ParseServiceID(s string) (ServiceID, error) {
	stack, name, found := strings.Cut(s, "/")
	if !found {
		stack, name = DefaultStack, s
	}
	id := ServiceID{Stack: stack, Name: name}
	for _, label := range []string{stack, name} {
		if err := CheckLabel(label); err != nil {
			return ServiceID{}, fmt.Errorf("service %q: %w; write it as name or stack/name", s, err)
		}
	}
	return id, nil
}

// CheckLabel reports why s is not a DNS label of lower-case letters, digits
// and inner hyphens, 1 to 63 octets long (RFC 1123 section 2.1).
func CheckLabel(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("empty name")
	case len(s) > 63:
		return fmt.Errorf("name %.20q… has %d characters, 63 is the most", s, len(s))
	case s[0] == '-' || s[len(s)-1] == '-':
		return fmt.Errorf("name %q begins or ends with a hyphen", s)
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("name %q holds %q: only a-z, 0-9 and hyphens", s, c)
		}
	}
	return nil
}

// CheckNodeName reports why s cannot name a host: it is part of keys in the store.
func CheckNodeName(s string) error {
	if s == "" || len(s) > 253 || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == '/' || c >= 0x7f }) {
		return fmt.Errorf("node name %q: use 1 to 253 ASCII characters without blanks and slashes, as in a host name", s)
	}
	return nil
}

// Protocol is a transport protocol, by its IANA number.
type Protocol uint8

// The protocols IPVS balances.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

var (
	_ encoding.TextMarshaler   = Protocol(0)
	_ encoding.TextUnmarshaler = (*Protocol)(nil)
)

// String is "tcp", "udp" or "sctp", or the number.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprint(uint8(p))
}

// ParseProtocol reads what [Protocol.String] writes.
func ParseProtocol(s string) (Protocol, error) {
	for _, p := range []Protocol{TCP, UDP, SCTP} {
		if s == p.String() {
			return p, nil
		}
	}
	return 0, fmt.Errorf("protocol %q: use tcp, udp or sctp", s)
}

// MarshalText writes the protocol's name.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the protocol's name.
func (p *Protocol) UnmarshalText(b []byte) (err error) {
	*p, err = ParseProtocol(string(b))
	return err
}

// Mode says what a service's name answers with.
type Mode string

// The modes of a service.
const (
	ModeVIP   Mode = "vip"   // a virtual address, balanced by the kernel
	ModeDNSRR Mode = "dnsrr" // the addresses of the tasks; no VIP
)

// Port is one port of a VIP.
type Port struct {
	Name     string   `json:"name,omitempty"` // for SRV; "" if none
	Port     uint16   `json:"port"`           // on the VIP, 1 to 65535
	Target   uint16   `json:"target"`         // on the task, 1 to 65535
	Protocol Protocol `json:"protocol"`
}

// PublishedPort is one port of the routing mesh. Ranges are spelled out.
type PublishedPort struct {
	IP        netip.Addr `json:"ip,omitzero"` // only on this address of the host; zero: on every one
	Published uint16     `json:"published"`   // on the hosts, 1 to 65535
	Target    uint16     `json:"target"`      // on the task, 1 to 65535
	Protocol  Protocol   `json:"protocol"`
}

// Spec is what a task's labels say of its service.
type Spec struct {
	Mode      Mode            `json:"mode"`
	Scheduler string          `json:"scheduler"`          // an IPVS scheduler, "rr"
	Affinity  time.Duration   `json:"affinity,omitempty"` // a client keeps its task this long, 1 s to 24 h; 0: it does not
	VIP       netip.Addr      `json:"vip,omitzero"`       // wanted; zero: any
	Ports     []Port          `json:"ports,omitempty"`    // none: every port, unchanged
	Publish   []PublishedPort `json:"publish,omitempty"`

	// PublishLocal: only hosts with a task answer on Publish, and with their own
	// tasks only.
	PublishLocal bool `json:"publishLocal,omitempty"`

	// PreferLocal: give new connections of a host to that host's own tasks while
	// it has any in rotation.
	PreferLocal bool `json:"preferLocal,omitempty"`
}

// State is where a task stands.
type State string

// The states of a task. Only a Running task is given new connections.
const (
	Starting  State = "starting"  // it waits to be in rotation, see Reason: for its health, its ports, or its address to rest
	Running   State = "running"   // in rotation
	Unhealthy State = "unhealthy" // its HEALTHCHECK fails: weight 0, name kept
	Paused    State = "paused"    // docker pause: weight 0
	Draining  State = "draining"  // told to stop: finishes what it holds

	// Lost: this host considers the task's host dead. It is a state in Snapshots
	// only: the task's record keeps the one it had, to be that again at once when
	// its host is back. What the task holds is left to it, as it may go on
	// somewhere a partition hides it.
	Lost State = "lost"

	// Unreached: the task's address is one that only its own host reaches, on a
	// Docker network of that host; here it may be somebody else's. Like Lost it is
	// a state in Snapshots, of the other hosts, only.
	Unreached State = "unreached"
)

// Task is one container's part in one service.
type Task struct {
	Service   ServiceID     `json:"service"`
	Node      string        `json:"node"`      // the host it runs on
	Container string        `json:"container"` // full ID
	Name      string        `json:"name"`      // the container's name
	Addr      netip.Addr    `json:"addr"`
	State     State         `json:"state"`
	Since     time.Time     `json:"since"`            // when it came into State; of a Draining one, when it was told to stop; of a Lost one, when its host was considered dead
	Reason    string        `json:"reason,omitempty"` // of a Starting one: what it waits for
	Drain     time.Duration `json:"drain"`            // the most it may take to drain
	Seen      time.Time     `json:"-"`                // when this host came to know that it drains, by its own clock; zero: it is this host's
	Weight    int           `json:"weight"`           // of IPVS, 0 to 65535
	Started   time.Time     `json:"started"`          // when its container started
	Spec      *Spec         `json:"spec"`             // of the service, as this task has it; tasks share one, so nobody changes it
}

// InRotation tells whether the task is given new connections.
func (t *Task) InRotation() bool { return t.State == Running }

// Listed tells whether tasks.NAME lists the task's address: it runs, healthy
// or not.
func (t *Task) Listed() bool { return t.State == Running || t.State == Unhealthy }

// DrainDeadline is when a draining task is cut off. The clocks of two hosts may
// differ, so a task of another host has its whole time from when this host came
// to know of it: none is cut off too soon.
func (t *Task) DrainDeadline() time.Time {
	if !t.Seen.IsZero() {
		return t.Seen.Add(t.Drain)
	}
	return t.Since.Add(t.Drain)
}

// Newer orders tasks by the start of their containers, then by ID, so that
// every host agrees which of two is the newest.
func (t *Task) Newer(o *Task) bool {
	if c := t.Started.Compare(o.Started); c != 0 {
		return c > 0
	}
	return t.Container > o.Container
}

// Container is what one container of a host brings into the mesh: its tasks,
// or the reason why it has none. A container without labels is here for its
// addresses and its stack: by them the DNS server knows who asks.
type Container struct {
	ID          string       `json:"id"`
	Name        string       `json:"name"`
	Node        string       `json:"node"`
	Stack       string       `json:"stack"`
	Addrs       []netip.Addr `json:"addrs,omitempty"`
	Tasks       []Task       `json:"tasks,omitempty"`
	Problem     string       `json:"problem,omitempty"`     // why it was refused; "" if it was not
	ProblemCode Code         `json:"problemCode,omitempty"` // of that
	Notices     []Notice     `json:"notices,omitempty"`     // what is not as its labels say, though it works
	Since       time.Time    `json:"since"`                 // when it started
}

// Notice is something of an object that is not exactly as was asked for, while the
// object works.
type Notice struct {
	Code Code   `json:"code"`
	Text string `json:"text"` // and what to do about it

	// Problem: the object does not work as it should, though it is not left out.
	Problem bool `json:"problem,omitempty"`
}

// Network is a Docker network of this host, with containers on a bridge.
type Network struct {
	Name    string         `json:"name"`
	Bridge  string         `json:"bridge"` // the interface, "docker0"
	Subnets []netip.Prefix `json:"subnets"`
	Gateway []netip.Addr   `json:"gateway,omitempty"`
}

// Local is all that is to be known of this host's engine: always the whole.
type Local struct {
	Containers []Container  // by ID
	Networks   []Network    // by name
	Resting    []netip.Addr // that tasks had until just now, in order: see [Snapshot]
}

// Node is a host of the cluster.
type Node struct {
	Name   string       `json:"name"`            // unique in the cluster
	Addr   netip.Addr   `json:"addr"`            // the other hosts reach it by this
	Number uint16       `json:"number"`          // unique in the cluster, from 1: its place in the pool of subnets; 0: none yet
	Subnet netip.Prefix `json:"subnet,omitzero"` // of its containers; zero: none yet
	MAC    MAC          `json:"mac,omitzero"`    // of the device that has Addr
	Probe  netip.Addr   `json:"probe,omitzero"`  // an address of Subnet that the host itself answers on: see package fabric; zero: none
	Alive  bool         `json:"-"`               // as this host sees it

	// Settings are those of its agent that have to be the same on all hosts.
	Settings Settings `json:"settings,omitempty"`

	// Problem is why this host does not act on the Subnet in the host's record,
	// which is zero here then, and ProblemCode its code.
	Problem     string `json:"-"`
	ProblemCode Code   `json:"-"`
}

// Reached tells whether the other hosts reach an address that a container of
// this one has: it is that of the host itself, or of the subnet that it leased.
func (n *Node) Reached(a netip.Addr) bool { return a == n.Addr || n.Subnet.Contains(a) }

// MAC is an Ethernet address (EUI-48).
type MAC [6]byte

// String is six pairs of hexadecimal digits with colons between.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText writes what String does.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what String writes.
func (m *MAC) UnmarshalText(b []byte) error {
	hw, err := net.ParseMAC(string(b))
	if err != nil || len(hw) != len(m) {
		return fmt.Errorf("%q is no Ethernet address", b)
	}
	*m = MAC(hw)
	return nil
}

// PortClaim says which service holds a port of the routing mesh, on every
// host.
type PortClaim struct {
	Protocol Protocol  `json:"protocol"`
	Port     uint16    `json:"port"`
	Service  ServiceID `json:"service"`
}
