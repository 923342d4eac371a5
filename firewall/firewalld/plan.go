package firewalld

import (
	"maps"
	"slices"
)

const (
	zone         = "docker"            // the engine's, for its bridges
	enginePolicy = "docker-forwarding" // the engine's, from any zone to that one
	policy       = "shoal"             // the same, where the engine has none
)

// state is what firewalld has.
type state struct {
	zones    []string
	policies []string
	zoneOf   map[string]string // device → its zone; none: it is in the default one, as nobody has put it into any
}

// plan is what firewalld is to be told. What is made is part of the permanent
// configuration, and takes a reload.
type plan struct {
	makeZone, makePolicy bool
	add                  []string // devices, to the zone
}

func (p *plan) empty() bool { return !p.reload() && len(p.add) == 0 }
func (p *plan) reload() bool {
	return p.makeZone || p.makePolicy
}

// planOf is how the devices come to be in the zone, and how what is sent to them
// comes to pass.
func planOf(have state, devices []string) (p plan) {
	if len(devices) == 0 {
		return plan{}
	}
	p.makeZone = !slices.Contains(have.zones, zone)
	p.makePolicy = !slices.Contains(have.policies, enginePolicy) && !slices.Contains(have.policies, policy)
	want := map[string]bool{}
	for _, d := range devices {
		want[d] = have.zoneOf[d] == ""
	}
	for _, d := range slices.Sorted(maps.Keys(want)) {
		if want[d] {
			p.add = append(p.add, d)
		}
	}
	return p
}
