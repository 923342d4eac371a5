package ipvs

import (
	"testing"
	"unsafe"
)

// The kernel refuses a buffer that is not of its structures' size.
func TestStructuresHaveTheKernelsSizes(t *testing.T) {
	for name, size := range map[string][2]uintptr{
		"ip_vs_getinfo":       {unsafe.Sizeof(infoEntry{}), 12},
		"ip_vs_stats_user":    {unsafe.Sizeof(statsEntry{}), 56},
		"ip_vs_service_entry": {unsafe.Sizeof(serviceEntry{}), 104},
		"ip_vs_dest_entry":    {unsafe.Sizeof(destEntry{}), 96},
		"ip_vs_get_services":  {unsafe.Sizeof(servicesHead{}), 8},
		"ip_vs_get_dests":     {unsafe.Sizeof(destsHead{}), 24},
	} {
		if size[0] != size[1] {
			t.Errorf("struct %s is %d octets, want %d", name, size[0], size[1])
		}
	}
}

func TestServiceWithForeignFlagsIsNotTheOneWanted(t *testing.T) {
	e := serviceEntry{mark: 5, flags: flagPersistent | flagHashed | flagFallback, timeout: 30}
	copy(e.scheduler[:], "sh")
	if got, want := e.service(), (Service{5, "sh", 30}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	e.flags = flagHashed
	if got, want := e.service(), (Service{5, "sh (flags 0x0)", 0}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
