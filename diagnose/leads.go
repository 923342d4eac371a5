package diagnose

import (
	"strings"

	"shoal/lb"
	"shoal/model"
)

// leadsStep tells who leads a client's connection to a task: connect(), before there
// is a packet, or the data plane. c is the client, nil: any.
func (in *Inspector) leadsStep(e *walk, svc *model.Service, v vipView, c *Looked, asked askedPort) {
	front := frontFor(v.fronts, asked)
	if front == nil || len(svc.InRotation()) == 0 {
		return
	}
	plane := in.Plane.Name()
	i := indexOfSocket(front)
	switch {
	case in.SocketGroup == "":
		e.step("path", true, "the data plane %s leads connections to it: connect() leads nobody's (%s)", plane, in.SocketWhy)
	case front.Key.Protocol != model.TCP && front.Key.Protocol != model.UDP || i < 0:
		e.step("path", true, "the data plane %s leads %s to it: connect() leads TCP and UDP alone", plane, front.Key.Protocol)
	case strings.Contains(front.Steps[i].Evidence, leftToPlane):
		_, why, _ := strings.Cut(front.Steps[i].Evidence, leftToPlane)
		e.step("path", true, "the data plane %s leads connections to it, and not connect(): %s", plane, why)
	case c != nil && in.isOutside(c):
		e.step("path", true, "the data plane %s leads it: %s is in no control group below %s, whose connections connect() leads", plane, c.Name, in.SocketGroup)
	default:
		but := ""
		if front.Key.Protocol == model.UDP {
			but = "; a socket that is not connected is led by the data plane " + plane
		}
		e.step("path", true, "connect() leads it: the BPF programs at the control group %s put a task's address in the place of the VIP%s\n%s", in.SocketGroup, but, front.Steps[i].Evidence)
	}
}

// leftToPlane is how a front's step says that connect() does not lead to it.
const leftToPlane = "left to the data plane: "

func (in *Inspector) isOutside(c *Looked) bool {
	outside, err := in.Outside(c.Pid)
	return err == nil && outside
}

func indexOfSocket(f *lb.FrontView) int {
	for i, s := range f.Steps {
		if s.What == "socket" {
			return i
		}
	}
	return -1
}

// frontFor is the frontend of a port, else the one of all ports, else the first.
func frontFor(fronts []lb.FrontView, asked askedPort) (found *lb.FrontView) {
	for i := range fronts {
		f := &fronts[i]
		switch {
		case asked.port != 0 && f.Key.Port == asked.port && f.Key.Protocol == asked.proto:
			return f
		case found == nil && (asked.port == 0 || f.Key.Port == 0 && f.Key.Protocol == asked.proto):
			found = f
		}
	}
	return found
}
