package diagnose

import (
	"fmt"
	"net/netip"
	"slices"

	"shoal/model"
)

// traceRoutes tells which hosts the kernel's routes to tasks lead to, and how;
// how it reaches those of this host is told at their end.
func (in *Inspector) traceRoutes(e *walk, s *model.Snapshot, tasks []netip.Addr) (next []Hop) {
	slices.SortFunc(tasks, netip.Addr.Compare)
	for _, to := range slices.Compact(tasks) {
		h, err := in.Routes.Inspect(to)
		if err != nil {
			e.step("route", false, "%s: %v", to, err)
			continue
		}
		if h.Node == "" && !h.Via.IsValid() {
			h.Node = s.Self.Name // a network of this host's own
		}
		next = append(next, Hop{Addr: to, Node: h.Node})
		if h.Node == s.Self.Name {
			continue
		}
		text, ok := h.Route, true
		switch {
		case h.Way != "":
			text += fmt.Sprintf("\n%s to host %s", h.Way, h.Node)
		case h.Node == "":
			text += "\nno host of the cluster has this address"
		}
		if h.VTEP != nil {
			text += fmt.Sprintf(", tunnel end %s at %s", h.VTEP.MAC, h.VTEP.Remote)
			ok = h.VTEP.Remote.IsValid() && h.VTEP.MAC != model.MAC{}
		}
		if n, known := nodeOf(s, h.Node); known && !h.Ours && to != n.Addr {
			text, ok = text+fmt.Sprintf("\nthe route to the containers of host %s is missing", h.Node), false
		}
		e.step("route", ok, "%s", text)
	}
	return next
}

// traceTasks tells the end of the way to tasks of this host, and how their
// replies go back to the sandbox that sent to them.
func (in *Inspector) traceTasks(e *walk, s *model.Snapshot, q Question) error {
	for _, addr := range q.tasks {
		h, err := in.Routes.Inspect(addr)
		switch {
		case err != nil:
			e.step("route", false, "%s: %v", addr, err)
			continue
		case h.Via.IsValid():
			e.step("route", false, "%s\nwhich leads away from this host", h.Route)
			continue
		case h.MAC != model.MAC{}:
			e.step("route", true, "%s\nneighbour %s", h.Route, h.MAC)
		default:
			e.step("route", true, "%s", h.Route)
		}
		in.traceContainer(e, s, addr)
	}
	if q.entry == "" || q.entry == s.Self.Name {
		return nil
	}
	return in.traceReturn(e, q.entry)
}
