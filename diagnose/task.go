package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"shoal/api"
	"shoal/model"
)

// asked is a port that a client asks for; zero: none is named.
type askedPort struct {
	port  uint16
	proto model.Protocol
}

// crashTime is how long a container has to run to be none that crashes again and
// again.
const crashTime = time.Minute

// taskSteps tell of each task of a service its state and the reason, those that
// should be tasks and are not among them.
func (in *Inspector) taskSteps(e *walk, s *model.Snapshot, svc *model.Service, all sights, asked askedPort) {
	known := map[string]bool{}
	for _, t := range svc.Tasks {
		known[t.Container] = true
		e.at(t.Node, in.taskStep(s, t, all, asked, e.node != ""))
	}
	live := len(svc.InRotation()) > 0
	for _, c := range all.containers() {
		if !known[c.ID] {
			e.at(c.Node, absentStep(s, c, svc.ID, live))
		}
	}
	for _, n := range s.Nodes {
		if err := all.silent[n.Name]; err != nil {
			e.agentStep(n, err)
		}
	}
}

// at adds a step that was seen on a host, where steps say so.
func (e *walk) at(node string, s api.Step) {
	if e.node != "" {
		s.Node = node
	}
	s.Evidence, s.Remedy = printable(s.Evidence), oneLine(s.Remedy)
	e.add(s)
}

// taskStep tells of a task whether it is reached, and why not.
func (in *Inspector) taskStep(s *model.Snapshot, t *model.Task, all sights, asked askedPort, here bool) api.Step {
	c := all.find(t.Node, t.Container)
	step := api.Step{What: "task", OK: true}
	why, remedy := standing(s, t, c, in.MeshNetwork, here)
	lines := []string{fmt.Sprintf("%s on %s: %s", t.Name, t.Node, why)}
	step.OK = remedy == ""
	remedies := []string{remedy}
	if c != nil && (t.State == model.Running || t.State == model.Starting || t.State == model.Unhealthy) {
		wrong, fixes, fine := listens(t, c, asked)
		if len(wrong) > 0 && step.OK {
			lines[0] = fmt.Sprintf("%s on %s: %s", t.Name, t.Node, wrong[0])
			wrong = append(wrong[1:], why)
		}
		lines = append(lines, wrong...)
		if fine != "" && len(wrong) == 0 {
			lines[0] += "; " + fine
		}
		remedies = append(remedies, fixes...)
		step.OK = step.OK && len(fixes) == 0
	}
	remedies = slices.DeleteFunc(remedies, func(s string) bool { return s == "" })
	step.Evidence, step.Remedy = strings.Join(lines, "\n"), strings.Join(slices.Compact(remedies), "; ")
	return step
}

// standing tells where a task stands, and what to do where it is given no
// connections: by a client of this host alone (here), or by all.
func standing(s *model.Snapshot, t *model.Task, c *Looked, network string, here bool) (why, remedy string) {
	if c != nil && crashes(c) && t.State != model.Draining {
		return crashText(c), fmt.Sprintf("see why by: docker logs %s", t.Name)
	}
	since := clock(t.Since)
	switch t.State {
	case model.Running:
		why = fmt.Sprintf("in rotation since %s at %s", since, t.Addr)
		switch {
		case t.Weight == 0:
			return "weight 0, so it gets no new connections", "give it another weight by the label shoal.weight, or none"
		case !here && len(s.Nodes) > 1 && t.Node == s.Self.Name && s.Self.Subnet.IsValid() && !s.Self.Reached(t.Addr):
			return fmt.Sprintf("its address %s is on a network that only this host reaches: on the other hosts it is in no rotation", t.Addr), onNetwork(network)
		}
		return why, ""
	case model.Starting, model.Unhealthy:
		return healthText(t, c)
	case model.Paused:
		return "paused since " + since, "docker unpause " + t.Name
	case model.Draining:
		return fmt.Sprintf("was told to stop at %s, and may finish what it holds until %s: it gets no new connections", since, clock(t.DrainDeadline())), ""
	case model.Lost:
		return fmt.Sprintf("its host %s is considered dead since %s", t.Node, since),
			fmt.Sprintf("start host %s and its agent again, or see that TCP and UDP 7946 pass between the hosts; shoal nodes tells why. If it is gone for good: shoal node rm %[1]s", t.Node)
	case model.Unreached:
		return fmt.Sprintf("its address %s is on a network that only its own host reaches, so it serves there alone", t.Addr), onNetwork(network)
	}
	return string(t.State) + " since " + since, ""
}

func onNetwork(network string) string {
	return fmt.Sprintf("start it anew with --network %s; if it has to be on others too, with the label shoal.network=%[1]s", network)
}

// healthText tells why a task is not ready, or not healthy.
func healthText(t *model.Task, c *Looked) (why, remedy string) {
	if c == nil || c.Health == nil {
		return fmt.Sprintf("%s since %s: it is not ready for connections yet", t.State, clock(t.Since)), "wait, or see by its log what it waits for: docker logs " + t.Name
	}
	h := c.Health
	last := "it was not run yet"
	if !h.At.IsZero() {
		last = fmt.Sprintf("the last one, at %s, ended with exit code %d", clock(h.At), h.ExitCode)
		if out := oneLine(h.Output); out != "" {
			last += " and said: " + out
		}
	}
	if t.State == model.Starting {
		if h.Status == "healthy" {
			return fmt.Sprintf("starting since %s: it is healthy, and let in soon", clock(t.Since)), ""
		}
		return fmt.Sprintf("starting since %s: its HEALTHCHECK has not passed yet; %s", clock(t.Since), last),
			fmt.Sprintf("wait until it passes, or mend what it says (docker inspect -f '{{json .State.Health}}' %s); the label shoal.health=none has it not matter", t.Name)
	}
	return fmt.Sprintf("unhealthy since %s: its HEALTHCHECK failed %d times in a row; %s", clock(t.Since), h.Failing, last),
		fmt.Sprintf("mend what the check says (docker inspect -f '{{json .State.Health}}' %s); the label shoal.health=none has it not matter", t.Name)
}

// crashes tells whether a container ends again and again.
func crashes(c *Looked) bool {
	if c.State == "restarting" {
		return true
	}
	return c.State == "running" && c.Ends >= 2 && c.Restarts > 0 && time.Since(c.Started) < crashTime
}

func crashText(c *Looked) string {
	return fmt.Sprintf("crashes: it ended %s with %s, and the engine has started it again %d times", clock(c.Finished), codeText(c), c.Restarts)
}

// codeText is a container's exit code, with what that mostly means.
func codeText(c *Looked) string {
	if c.OOM {
		return fmt.Sprintf("exit code %d: the kernel ended it for want of memory", c.ExitCode)
	}
	if c.ExitCode < 0 {
		return "an exit code that is not known any more"
	}
	means := map[int]string{126: "its command cannot be run", 127: "its command was not found", 137: "it was killed", 139: "segmentation fault", 143: "it was told to stop"}[c.ExitCode]
	if means != "" {
		means = " (" + means + ")"
	}
	return fmt.Sprintf("exit code %d%s", c.ExitCode, means)
}

// listens tells on which of a task's ports nobody listens, and what to do, or who
// listens.
func listens(t *model.Task, c *Looked, asked askedPort) (wrong, fixes []string, fine string) {
	if c.Deaf != "" {
		return nil, nil, ""
	}
	type heard struct {
		port  uint16
		proto model.Protocol
	}
	heards := map[heard]bool{}
	judge := func(name string, proto model.Protocol, target uint16, label string) {
		h := hears(c.Listens, t.Addr, proto, target)
		if h.OK {
			return
		}
		key := heard{target, proto}
		if !heards[key] {
			heards[key] = true
			wrong = append(wrong, fmt.Sprintf("%s: %s", name, h.Why))
		}
		switch {
		case h.Fix != "":
			fixes = append(fixes, strings.Replace(h.Fix, "its log", "its log (docker logs "+t.Name+")", 1))
		case h.Use != 0 && label != "":
			fixes = append(fixes, fmt.Sprintf("use %s:%s", label, portText(h.Use, h.As)))
		case label != "":
			fixes = append(fixes, fmt.Sprintf("use %s:PORT with one of the ports that it listens on", label))
		}
	}
	for _, p := range t.Spec.Ports {
		judge(targetName(p.Port, p.Target, p.Protocol), p.Protocol, p.Target, fmt.Sprintf("shoal.ports=%d", p.Port))
	}
	for _, p := range t.Spec.Publish {
		judge("published "+targetName(p.Published, p.Target, p.Protocol), p.Protocol, p.Target, fmt.Sprintf("shoal.publish=%s%d", ipText(p), p.Published))
	}
	if asked.port != 0 {
		if target, ok := t.Target(asked.proto, asked.port); ok && t.AllPorts() {
			judge(targetName(asked.port, target, asked.proto), asked.proto, target, fmt.Sprintf("shoal.ports=%d", asked.port))
		}
	}
	reach := heardOf(c.Listens, t.Addr)
	switch {
	case len(wrong) > 0:
	case len(reach) == 0 && t.AllPorts() && len(t.Spec.Publish) == 0:
		h := hears(c.Listens, t.Addr, model.TCP, 0)
		wrong, fixes = []string{h.Why}, []string{strings.Replace(h.Fix, "its log", "its log (docker logs "+t.Name+")", 1)}
	case !c.HostNetwork:
		fine = listed(reach)
	}
	slices.Sort(fixes)
	return wrong, slices.Compact(fixes), fine
}

func targetName(port, target uint16, proto model.Protocol) string {
	if port == target {
		return "port " + portText(port, proto)
	}
	return fmt.Sprintf("port %d, which is the task's %s", port, portText(target, proto))
}

func ipText(p model.PublishedPort) string {
	if !p.IP.IsValid() {
		return ""
	}
	return p.IP.String() + ":"
}

// absentStep tells why a container is no task, or not of the service it should be.
func absentStep(s *model.Snapshot, c *Looked, id model.ServiceID, live bool) api.Step {
	step := api.Step{What: "container"}
	say := func(remedy, format string, args ...any) api.Step {
		step.Evidence = fmt.Sprintf("%s on %s: ", c.Name, c.Node) + fmt.Sprintf(format, args...)
		step.Remedy = remedy
		return step
	}
	if known := s.Containers.Find(c.Node, c.ID); known != nil && known.Problem != "" {
		return say("start it anew with its labels right", "%s", oneLine(known.Problem))
	}
	service := id.Name
	if service == "" {
		service = "NAME"
	}
	switch {
	case c.Refusal != "":
		return say("start it anew with its labels right", "%s", oneLine(c.Refusal))
	case len(c.Odd) > 0 && len(c.Services) == 0:
		return say(fmt.Sprintf("start it anew with the label shoal.service=%s", service),
			"it has the label %q, which is none of shoal's, and no label shoal.service, so it is a task of no service", c.Odd[0])
	case len(c.Services) == 0:
		return say(fmt.Sprintf("start it anew with the label shoal.service=%s", service), "it has no label shoal.service, so it is a task of no service")
	case c.State == "restarting":
		return say("see why by: docker logs "+c.Name, "%s", crashText(c))
	case c.Error != "":
		return say("mend what the engine says, then: docker start "+c.Name, "the engine could not start it: %s", oneLine(c.Error))
	case c.State == "created":
		return say("docker start "+c.Name, "it was made, and never started")
	case c.State == "running" || c.State == "paused":
		return say("ask again in a moment", "it has just been started, and is about to join")
	}
	if live { // of those that run there are others: one that was stopped is nothing odd
		step.OK = true
		return say("", "does not run: it ended %s with %s", clock(c.Finished), codeText(c))
	}
	remedy := "docker start " + c.Name
	if c.ExitCode != 0 && c.ExitCode != 143 {
		remedy = fmt.Sprintf("see why by: docker logs %s; then docker start %[1]s, with --restart unless-stopped where it should come back by itself", c.Name)
	}
	return say(remedy, "does not run: it ended %s with %s", clock(c.Finished), codeText(c))
}

// clock is a time of day, with the date where that is not today's.
func clock(t time.Time) string {
	t = t.Local()
	switch {
	case t.Year() < 1971:
		return "at a time that is not known"
	case time.Since(t) < 12*time.Hour:
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}
