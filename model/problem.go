package model

import (
	"errors"
	"fmt"
	"time"
)

// Problem is something that keeps one object from working while the others
// go on.
type Problem struct {
	Node   string    `json:"node"`             // the host that has it
	By     string    `json:"by,omitempty"`     // the host that sees it, where that is another one
	Code   Code      `json:"code"`             // which problem it is, for programs
	Kind   string    `json:"kind"`             // "container", "service", "kernel", …
	Object string    `json:"object"`           // a container's name, a service's ID, …
	Reason string    `json:"reason"`           // what is wrong and what to do about it, for people
	Notice bool      `json:"notice,omitempty"` // the object works, but not exactly as was asked for
	Since  time.Time `json:"since"`
}

// Identity is the object that has the problem.
func (p Problem) Identity() string { return p.Object }

// Code names a kind of problem. It stays the same while the texts change.
type Code string

// Why a container serves nothing, or not everywhere.
const (
	LabelsInvalid      Code = "labels-invalid"      // its labels say what cannot be meant
	LabelsOfImage      Code = "labels-of-image"     // notice: labels of its image are not obeyed
	TaskFlapping       Code = "task-flapping"       // notice: it comes into rotation too often, and is let in more slowly
	NotReady           Code = "not-ready"           // its ports do not accept connections; it is in rotation all the same
	RecordTooLarge     Code = "record-too-large"    // its labels say more than the store takes of a container
	NetworkAmbiguous   Code = "network-ambiguous"   // it is on several networks and does not say which to use
	NetworkMissing     Code = "network-missing"     // it is not on the network that it names, or the host has none of that name
	NetworkUnusable    Code = "network-unusable"    // the host does not reach containers on its network
	NetworkOwnerGone   Code = "network-owner-gone"  // the container whose network it shares does not run, or was restarted
	AddressMissing     Code = "address-missing"     // it has no address, or no usable one; likewise a host
	TaskUnreached      Code = "task-unreached"      // other hosts do not reach its address
	PublishUnsupported Code = "publish-unsupported" // its port cannot be published in the way that it asks for
	TaskCrashed        Code = "task-crashed"        // it ends by itself: again and again, or without being started again
	TaskUnhealthy      Code = "task-unhealthy"      // its HEALTHCHECK fails
	TaskPaused         Code = "task-paused"         // it is paused
	TaskLost           Code = "task-lost"           // its host is dead
)

// Why a service has no VIP, or not the one that was asked for.
const (
	VIPPoolFull    Code = "vip-pool-full"    // all addresses of the pool are taken
	VIPTaken       Code = "vip-taken"        // the address asked for is another service's
	VIPReserved    Code = "vip-reserved"     // the address asked for is no service's to have
	VIPOutsidePool Code = "vip-outside-pool" // the address is not in the pool
	VIPResting     Code = "vip-resting"      // another service had the address until not long ago
	VIPFixed       Code = "vip-fixed"        // the service has another VIP already, and keeps it
)

// Why a service is not balanced, or not published.
const (
	ServiceDown      Code = "service-down"      // none of its tasks is in rotation
	PortTaken        Code = "port-taken"        // another service has published the port
	PortInUse        Code = "port-in-use"       // a process of the host, or a rule of somebody else, has the port
	PublishRefused   Code = "publish-refused"   // the port is not for labels to publish
	SchedulerMissing Code = "scheduler-missing" // the kernel has no such scheduler
	NamePublic       Code = "name-public"       // notice: outside of the zone, the Internet has names like the service's
	SchedulerNearest Code = "scheduler-nearest" // notice: the data plane has no such scheduler, and uses the nearest one
	SocketOutside    Code = "socket-outside"    // notice: containers are in no control group whose connections are led in connect()
)

// What is wrong with hosts and the network between them.
const (
	SubnetOverlap   Code = "subnet-overlap"   // a subnet overlaps another one
	SubnetInvalid   Code = "subnet-invalid"   // a subnet cannot be a host's
	DuplicateNode   Code = "duplicate-node"   // another host has the same name and state: a machine was cloned
	AddressTaken    Code = "address-taken"    // two hosts have the same address
	HostUnreachable Code = "host-unreachable" // there is no way to a host's containers
	RouteMissing    Code = "route-missing"    // the kernel has no route to a host's containers
	HostGWBlocked   Code = "host-gw-blocked"  // notice: the link drops what containers send, so that it goes through a tunnel
	RouteForeign    Code = "route-foreign"    // somebody else has routed a host's subnet elsewhere
	NetworkFailed   Code = "network-failed"   // the engine's network for containers cannot be set up
	HostDead        Code = "host-dead"        // a host does not answer at all
	AgentSilent     Code = "agent-silent"     // a host's agent does not answer
	HostRemoved     Code = "host-removed"     // the host was removed from the cluster, and its agent runs
	SettingsDiffer  Code = "settings-differ"  // hosts have different values of a setting that has to be the same
	ClockSkew       Code = "clock-skew"       // a host's clock differs from the others'
)

// What other firewalls of the host do.
const (
	FirewallDrops  Code = "firewall-drops"  // somebody else's firewall drops what the mesh needs
	FirewallFailed Code = "firewall-failed" // firewalld refuses, or cannot be asked, to let the mesh's packets pass
	EngineDrops    Code = "engine-drops"    // the engine's firewall drops what is sent to containers on a network
	RulesSaved     Code = "rules-saved"     // notice: a service saves rules that it could not restore
)

// What is wrong with what the agent stands on.
const (
	EngineUnreachable Code = "engine-unreachable"    // the container engine does not answer
	StoreUnreachable  Code = "store-unreachable"     // etcd does not answer
	DNSListenFailed   Code = "dns-listen-failed"     // the DNS server cannot listen on an address
	ListenFailed      Code = "listen-failed"         // metrics or the web page cannot be served on the address named for them
	DNSPortTaken      Code = "dns-port-taken"        // notice: another process has port 53, and the DNS server answers on another
	KernelReadFailed  Code = "kernel-read-failed"    // the kernel's tables cannot be read
	KernelWriteFailed Code = "kernel-write-failed"   // the kernel refuses an entry
	KernelIncomplete  Code = "kernel-incomplete"     // the kernel lacks a module or a feature
	ConntrackFull     Code = "conntrack-nearly-full" // the kernel tracks almost as many connections as it can
	Unclassified      Code = "unclassified"          // none of the above
	StoreFull         Code = "store-full"            // etcd holds as much as it may, and takes no more writes
	StoreDown         Code = "store-down"            // this host's own etcd does not run
	HostNotFollowed   Code = "host-not-followed"     // a host does not use the new store that another one made
	DiskNearlyFull    Code = "disk-nearly-full"      // the disk of the state folder has little room left
	CertificateEnding Code = "certificate-ending"    // a certificate ends soon, and was not renewed
)

// Errorf is as [fmt.Errorf]; the error has the code.
func (c Code) Errorf(format string, args ...any) error {
	return c.Of(fmt.Errorf(format, args...))
}

// Of gives an error the code. Its text stays. Of nil it is nil.
func (c Code) Of(err error) error {
	if err == nil {
		return nil
	}
	return &codedError{c, err}
}

// CodeOf is the code of an error, or of the first one that it wraps which has
// one; else otherwise.
func CodeOf(err error, otherwise Code) Code {
	var coded interface{ ProblemCode() Code }
	if errors.As(err, &coded) {
		return coded.ProblemCode()
	}
	return otherwise
}

// codedError is an error with the code of the problem that it becomes.
type codedError struct {
	code Code
	error
}

func (e *codedError) ProblemCode() Code { return e.code }
func (e *codedError) Unwrap() error     { return e.error }
