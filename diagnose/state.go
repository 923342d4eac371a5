package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"shoal/model"
)

// StateProblems are what a Snapshot itself tells: hosts that are dead, containers that get
// no connections, services with nothing in rotation. Every host sees the same, so that they
// are neither recorded nor logged, but made when somebody asks. deadSince is when a host was
// considered dead; nil: not known of any.
func StateProblems(s *model.Snapshot, deadSince map[string]time.Time) []model.Problem {
	var ps []model.Problem
	for _, n := range s.Nodes {
		if !n.Alive && n.Name != s.Self.Name {
			ps = append(ps, model.Problem{Node: n.Name, By: s.Self.Name, Code: model.HostDead, Kind: "node", Object: n.Name, Since: deadSince[n.Name],
				Reason: fmt.Sprintf("neither its agent nor the host itself answers, and its tasks are out of rotation until it does: start it, or see to the network between (shoal nodes says how it was asked); "+
					"if it is gone for good, run: shoal node rm %s", n.Name)})
		}
	}
	for c := range s.Containers.All() {
		ps = append(ps, containerState(c)...)
	}
	for _, svc := range s.Services {
		ps = append(ps, serviceDown(svc)...)
	}
	return ps
}

// containerState tells why a container gets no connections: one reason for all of its
// tasks.
func containerState(c *model.Container) []model.Problem {
	for i := range c.Tasks {
		t := &c.Tasks[i]
		p := model.Problem{Node: t.Node, Kind: "container", Object: c.Name, Since: t.Since}
		switch t.State {
		case model.Unhealthy:
			p.Code = model.TaskUnhealthy
			p.Reason = fmt.Sprintf("its HEALTHCHECK fails, so that it gets no new connections: docker inspect -f '{{json .State.Health}}' %s on %s shows what the check printed", c.Name, t.Node)
		case model.Paused:
			p.Code = model.TaskPaused
			p.Reason = fmt.Sprintf("it is paused, so that it gets no new connections: docker unpause %s on %s", c.Name, t.Node)
		case model.Lost:
			p.Code = model.TaskLost
			p.Reason = fmt.Sprintf("its host %s is dead, so that it gets no new connections; it is back in rotation as soon as the host is", t.Node)
		default:
			continue
		}
		return []model.Problem{p}
	}
	return nil
}

// serviceDown tells that a service has tasks, and none in rotation: of each host that has
// some. Nothing is wrong with a service that is being stopped, or whose tasks serve their
// own host alone, which is told of each of them.
func serviceDown(svc *model.Service) (ps []model.Problem) {
	stopping := true
	var why, nodes []string
	var since time.Time
	for _, t := range svc.Tasks {
		if t.InRotation() || t.State == model.Unreached {
			return nil
		}
		stopping = stopping && t.State == model.Draining
		if len(why) < mostTasks {
			why = append(why, fmt.Sprintf("%s on %s is %s", t.Name, t.Node, t.State))
		}
		if !slices.Contains(nodes, t.Node) {
			nodes = append(nodes, t.Node)
		}
		if t.Since.After(since) {
			since = t.Since
		}
	}
	if stopping { // or there are none
		return nil
	}
	if more := len(svc.Tasks) - len(why); more > 0 {
		why = append(why, fmt.Sprintf("and %d more", more))
	}
	for _, node := range nodes {
		ps = append(ps, model.Problem{Node: node, Code: model.ServiceDown, Kind: "service", Object: svc.ID.String(), Since: since,
			Reason: fmt.Sprintf("none of its tasks is in rotation, so that connections to it are refused: %s; shoal explain %s tells more", strings.Join(why, ", "), svc.ID)})
	}
	return ps
}

// mostTasks is how many tasks of a service are named.
const mostTasks = 3
