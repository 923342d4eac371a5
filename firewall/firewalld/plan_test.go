package firewalld

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDevicesAreInTheZoneOfTheEnginesBridges(t *testing.T) {
	both := []string{"shoal0", "docker0"}
	for name, tc := range map[string]struct {
		have    state
		devices []string
		want    plan
	}{
		"an engine that never saw firewalld": {state{zones: []string{"public"}}, both,
			plan{makeZone: true, makePolicy: true, add: []string{"docker0", "shoal0"}}},
		"an engine before the policy": {state{zones: []string{"docker", "public"}, zoneOf: map[string]string{"docker0": "docker"}}, both,
			plan{makePolicy: true, add: []string{"shoal0"}}},
		"an engine that has it":                {state{zones: []string{"docker"}, policies: []string{"docker-forwarding"}, zoneOf: map[string]string{"docker0": "docker", "shoal0": "docker"}}, both, plan{}},
		"all is done":                          {state{zones: []string{"docker"}, policies: []string{"shoal"}, zoneOf: map[string]string{"docker0": "docker", "shoal0": "docker"}}, both, plan{}},
		"a device that somebody put elsewhere": {state{zones: []string{"docker"}, policies: []string{"shoal"}, zoneOf: map[string]string{"docker0": "work", "shoal0": "docker"}}, both, plan{}},
		"no devices":                           {state{zones: []string{"public"}}, nil, plan{}},
		"one device twice":                     {state{zones: []string{"docker"}, policies: []string{"shoal"}}, []string{"a", "a"}, plan{add: []string{"a"}}},
	} {
		if d := cmp.Diff(tc.want, planOf(tc.have, tc.devices), cmp.AllowUnexported(plan{})); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}
