package lab

import (
	"os"
	"sync"

	"shoal/lab/kernel"
)

// Plane is the data plane that agents of this lab use: kernel.IPVS or kernel.NFTables.
func Plane() string { return os.Getenv("LAB_PLANE") }

// SocketBalancing tells whether agents of this lab lead connections to VIPs in connect(), in front of the data plane.
func SocketBalancing() bool { return os.Getenv("LAB_SOCKET") != "off" }

// lacking is what this kernel was found to lack, by facility.
var lacking struct {
	sync.Mutex
	known map[string]error
}

// Has says whether this kernel has a facility, as [kernel.Has] probes, for a test that has to leave out a part without it.
// What is left out is listed when the job ends. User-Mode Linux has all of them but those that [kernel.UMLHas] tells of:
// there the test fails.
func Has(t T, facility string) bool {
	t.Helper()
	lacking.Lock()
	defer lacking.Unlock()
	why, probed := lacking.known[facility]
	if !probed {
		why = kernel.Has(facility)
		if lacking.known == nil {
			lacking.known = map[string]error{}
		}
		lacking.known[facility] = why
	}
	if why == nil {
		return true
	}
	if os.Getenv("LAB_KERNEL") != "native" && kernel.UMLHas(facility) {
		t.Fatalf("this kernel must have %s: %v", facility, why)
	}
	if err := kernel.NoteLacking(facility, t.Name()); err != nil {
		t.Fatalf("%v", err)
	}
	return false
}

// Needs skips a test on a kernel that lacks one of the facilities: see [Has].
func Needs(t interface {
	T
	Skipf(format string, args ...any)
}, facilities ...string) {
	t.Helper()
	for _, facility := range facilities {
		if !Has(t, facility) {
			t.Skipf("this kernel has no %s", facility)
		}
	}
}
