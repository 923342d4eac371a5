package nft

import (
	"cmp"

	lbslots "shoal/lb/slots"
)

// nearest is which of [lbslots]' schedulers is used for those that it does not
// have and wrr is not the nearest of. Those of IPVS that count connections are
// not among them: netfilter chooses before it counts.
var nearest = map[string]string{"lc": "rr"}

// Scheduler is the one that is used where the named one is asked for.
func (*Plane) Scheduler(name string) string { return scheduler(name) }

// scheduler is the same, or the nearest: one that minds weights, but for lc,
// which does not.
func scheduler(name string) string {
	if lbslots.Has(name) {
		return name
	}
	return cmp.Or(nearest[name], "wrr")
}
