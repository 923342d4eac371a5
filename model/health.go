package model

import (
	"fmt"
	"strings"
)

// The states of a cluster.
const (
	Healthy  = "healthy"
	Degraded = "degraded"
)

// Health is whether a cluster is well: it is degraded while any host has a problem.
// Notices do not count.
type Health struct {
	State   string `json:"state"`   // [Healthy] or [Degraded]
	Severe  bool   `json:"severe"`  // connections fail, or will soon: of a host or a service as a whole
	Summary string `json:"summary"` // in a few words

	Problems int `json:"problems"` // each counts once, however many hosts have it
	Notices  int `json:"notices"`

	DegradedBy []Problem `json:"-"` // the problems without the notices
}

// severe are the problems that concern all of a host or of a service, and their words.
var severe = []struct {
	code      Code
	one, many string // many has a number before it; "": there is one
}{
	{HostDead, "1 host dead", "hosts dead"},
	{ServiceDown, "1 service down", "services down"},
	{StoreUnreachable, "store unreachable", ""},
	{EngineUnreachable, "engine unreachable", ""},
}

// HealthOf judges a cluster by the problems of all its hosts. Whoever tells of it, the
// command line or the page, does so by this.
func HealthOf(problems []Problem) Health {
	h := Health{State: Healthy, Summary: Healthy, DegradedBy: []Problem{}}
	objects := map[Code]map[string]bool{}
	for _, p := range problems {
		if p.Notice {
			continue
		}
		h.DegradedBy = append(h.DegradedBy, p)
		if objects[p.Code] == nil {
			objects[p.Code] = map[string]bool{}
		}
		objects[p.Code][p.Object] = true
	}
	for _, g := range GroupProblems(problems) {
		if g.Notice {
			h.Notices++
		} else {
			h.Problems++
		}
	}
	if h.Problems == 0 {
		return h
	}
	var words []string
	for _, s := range severe {
		switch n := len(objects[s.code]); {
		case n == 0:
			continue
		case n > 1 && s.many != "":
			words = append(words, fmt.Sprintf("%d %s", n, s.many))
		default:
			words = append(words, s.one)
		}
		h.Severe = true
	}
	if h.Problems == 1 {
		words = append(words, "1 problem")
	} else {
		words = append(words, fmt.Sprintf("%d problems", h.Problems))
	}
	h.State, h.Summary = Degraded, strings.Join(words, ", ")
	return h
}
