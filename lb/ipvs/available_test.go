//go:build e2e

package ipvs

import (
	"testing"

	"shoal/kernel"
	"shoal/kernel/ipset"
)

func TestTheLabHasAllThatThePlaneNeeds(t *testing.T) {
	if err := Available(t.Context()); err != nil { // it may load modules
		t.Fatal(err)
	}
	before := kernel.Total()
	if err := Available(t.Context()); err != nil || kernel.Total() != before {
		t.Errorf("%v; %d writes, want none", err, kernel.Total()-before)
	}
	if names, err := ipset.Names(); err != nil || len(names) > 0 {
		t.Errorf("left: sets %v, %v", names, err)
	}
}
