package conformance

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"shoal/kernel"
	"shoal/lb"
)

// Plane is what the suite is run against.
type Plane struct {
	// New makes the plane, and Down takes away all that one has left, in the
	// network namespace of the calling thread.
	New  func(lb.PlaneOptions) (lb.DataPlane, error)
	Down func(context.Context, lb.PlaneOptions) error

	// Writes is how many writes to the kernel there were so far; nil:
	// [kernel.Total].
	Writes func() int

	// Breaks is what others may do to the plane's part of the kernel, and a full
	// pass repairs, beside what they may do to any plane.
	Breaks []Break

	// State is a shell command that prints what the plane has in the kernel
	// beside what is seen from the host's namespace; "": nothing. It finds the
	// plane's StateDir in $STATE.
	State string

	// Inner are addresses of the plane's own on each host, by which nobody else
	// reaches anything.
	Inner []netip.Addr

	// Nftables is the mark by which an engine that keeps its rules in nftables is
	// to be told what passes; "": the plane is not for such an engine.
	Nftables string

	// Direct tells why connections to a task's own address may fail after many to
	// its VIP; "": they must not.
	Direct string

	// Join has sockets that the calling thread makes be those of a host's processes
	// and containers. It is called once in the thread of each of the host's
	// namespaces. Nil: a socket's namespace says all.
	Join func(host string) error

	// Led are the networks, "tcp" and "udp", of which clients on a host are led to
	// tasks when they connect, by sockets that are Joined. Such a connection is one
	// to the task itself, and there the suite expects what holds of those:
	//
	//   - The task sees a process of the host by the address of the host that leads
	//     to it, and itself by its own address: nobody is masqueraded.
	//   - A connected UDP socket moves to another task in a moment after the pass.
	//   - Closing is a matter of a moment after the pass.
	Led []string

	// Unclosed tells why connections of led clients to tasks that are gone are not
	// closed; "": they must be.
	Unclosed string
}

// leads tells whether clients of a network are led.
func (p *Plane) leads(network string) bool { return slices.Contains(p.Led, network) }

// Break is a way to break a plane's part of the kernel.
type Break struct {
	Name string
	Do   func(lb.PlaneOptions) error // in a thread of the host's namespace, while a VIP and a published port are served
	Told bool                        // Changed must be signalled
}

// Command is a Break by a shell command. It finds the plane's StateDir in $STATE.
func Command(name, command string, told bool) Break {
	return Break{name, func(o lb.PlaneOptions) error { _, err := shell("STATE=" + o.StateDir + "\n" + command); return err }, told}
}

func (p *Plane) writes() int {
	if p.Writes != nil {
		return p.Writes()
	}
	return kernel.Total()
}

// test is one of the suite. Those of one host have a plane on host a; the
// others have one on each.
type test struct {
	name string
	run  func(*testing.T, *world)
	mesh bool
}

// Run runs the suite.
func Run(t *testing.T, p Plane) {
	s := &suite{plane: p}
	defer s.end()
	lists := [][]test{vipTests, schedulerTests, leavingTests, restingTests, guardTests, dnsTests, lifeTests, lookTests, publishedTests, insideTests, meshTests, scaleTests}
	if p.Nftables != "" {
		lists = append(lists, nftablesTests)
	}
	for _, list := range lists {
		for _, c := range list {
			t.Run(c.name, func(t *testing.T) {
				w := s.world(t, c.mesh)
				c.run(t, w)
			})
		}
	}
}

// suite keeps the world from one test to the next.
type suite struct {
	plane Plane
	w     *world
}

// world is the one that the test is given.
func (s *suite) world(t *testing.T, mesh bool) *world {
	t.Helper()
	if s.w == nil {
		s.w = newWorld(t, &s.plane)
	}
	w := s.w
	t.Cleanup(func() {
		if t.Failed() { // who knows what it left
			s.end()
		}
	})
	w.begin(t, mesh)
	return w
}

// sub runs a part of a test.
func (w *world) sub(name string, run func(*testing.T)) {
	whole := w.t
	defer func() { w.t = whole }()
	whole.Run(name, func(t *testing.T) {
		w.t = t
		run(t)
	})
}

func (s *suite) end() {
	if s.w != nil {
		s.w.end()
		s.w = nil
	}
}
