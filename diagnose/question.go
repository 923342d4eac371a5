package diagnose

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"

	"shoal/api"
	"shoal/model"
)

// Question is what a host is asked of a packet's way: from a name, or from a
// published port, to the choice of a task; or the end of the way to its own
// tasks; or a container that sends. Just one of name, port, tasks and sender is
// set.
type Question struct {
	name   string
	port   uint16
	proto  model.Protocol
	tasks  []netip.Addr
	sender string // by its name, or its ID

	from  netip.Addr // of name and port: who sends, as the host sees it
	at    netip.Addr // of port: the host's address that is sent to; zero: any. Others can only mean the one they know
	entry string     // of tasks: the host whose sandbox sends; "": none

	client string    // of name: the ID of the container that sends, which the host has; "": it is known by its address, or is none
	wants  askedPort // of name: the port that it asks for
	byAddr bool      // of name: it does not ask for it, but sends to the address
}

// Part is a host's part of a trace.
type Part struct {
	Steps   []api.Step `json:"steps"`
	Next    []Hop      `json:"next,omitempty"`    // the tasks that may be chosen; or the senders
	Service string     `json:"service,omitempty"` // that the name or port leads to
}

// Hop is a task, and the host that the kernel's route leads to ("": none of the
// cluster); or a container that sends, and its host.
type Hop struct {
	Addr netip.Addr `json:"addr"`
	Node string     `json:"node,omitempty"`
	ID   string     `json:"id,omitempty"` // of a container that sends
}

// Encode writes the question as a URL query.
func (q Question) Encode() string {
	v := url.Values{}
	switch {
	case q.name != "":
		v.Set("name", q.name)
	case q.port != 0:
		v.Set("port", fmt.Sprintf("%d/%s", q.port, q.proto))
	case q.sender != "":
		v.Set("sender", q.sender)
	}
	for _, t := range q.tasks {
		v.Add("task", t.String())
	}
	if q.from.IsValid() {
		v.Set("from", q.from.String())
	}
	if q.entry != "" {
		v.Set("entry", q.entry)
	}
	if q.client != "" {
		v.Set("client", q.client)
	}
	if q.byAddr {
		v.Set("by", "addr")
	}
	if q.wants.port != 0 {
		v.Set("wants", fmt.Sprintf("%d/%s", q.wants.port, q.wants.proto))
	}
	return v.Encode()
}

// ParseQuestion reads what Encode writes, and nothing else.
func ParseQuestion(v url.Values) (q Question, err error) {
	q.name, q.sender, q.entry, q.client = v.Get("name"), v.Get("sender"), v.Get("entry"), v.Get("client")
	if n := max(len(q.name), len(q.sender), len(q.client)); n > maxTraced {
		return q, fmt.Errorf("trace: a name of %d characters", n)
	}
	if q.entry != "" {
		if err := model.CheckLabel(q.entry); err != nil {
			return q, fmt.Errorf("trace: host: %w", err)
		}
	}
	kinds := 0
	for _, set := range []bool{q.name != "", q.sender != ""} {
		if set {
			kinds++
		}
	}
	if port := v.Get("port"); port != "" {
		kinds++
		if _, q.port, q.proto, err = splitPort(":" + port); err != nil {
			return q, err
		}
	}
	q.byAddr = v.Get("by") == "addr"
	if wants := v.Get("wants"); wants != "" {
		if _, q.wants.port, q.wants.proto, err = splitPort(":" + wants); err != nil {
			return q, err
		}
	}
	if tasks := v["task"]; len(tasks) > 0 {
		kinds++
		if len(tasks) > maxFollowed {
			return q, fmt.Errorf("trace: %d tasks at once, %d is the most", len(tasks), maxFollowed)
		}
		for _, t := range tasks {
			addr, err := parseIPv4(t)
			if err != nil {
				return q, err
			}
			q.tasks = append(q.tasks, addr)
		}
	}
	if kinds != 1 {
		return q, errors.New("trace: ask for just one of name, port, task and sender")
	}
	if q.name != "" || q.port != 0 {
		q.from, err = parseIPv4(v.Get("from"))
	}
	return q, err
}

func parseIPv4(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return a, fmt.Errorf("trace: %.40q is no IPv4 address", s)
	}
	return a, nil
}
