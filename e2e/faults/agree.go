package faults

import (
	"fmt"
	"maps"
	"slices"
)

// View is what a host says that there is, and what its kernel does.
type View struct {
	Host     string
	VIPs     map[string]string // by service, STACK/NAME
	Rotation []string          // tasks in rotation, each with service, name, host and address
	Others   []string          // tasks that are there and in no rotation, each with its state besides
	Kernel   []string          // each frontend with its backends
}

// Differences are where the views of hosts differ from what there is, a line each.
func Differences(want View, have []View) (all []string) {
	for _, v := range have {
		for _, service := range slices.Sorted(maps.Keys(want.VIPs)) {
			if got, is := v.VIPs[service], want.VIPs[service]; got != is {
				all = append(all, fmt.Sprintf("%s has %q as the VIP of %s, which is %s", v.Host, got, service, is))
			}
		}
		for _, service := range slices.Sorted(maps.Keys(v.VIPs)) {
			if _, ok := want.VIPs[service]; !ok {
				all = append(all, fmt.Sprintf("%s has the service %s, which is none", v.Host, service))
			}
		}
		for what, lists := range map[string][2][]string{
			"in rotation":    {want.Rotation, v.Rotation},
			"in no rotation": {want.Others, v.Others},
			"in its kernel":  {want.Kernel, v.Kernel},
		} {
			for _, one := range missing(lists[0], lists[1]) {
				all = append(all, fmt.Sprintf("%s lacks %s: %s", v.Host, what, one))
			}
			for _, one := range missing(lists[1], lists[0]) {
				all = append(all, fmt.Sprintf("%s has %s: %s", v.Host, what, one))
			}
		}
	}
	slices.Sort(all)
	return all
}

// missing are those of a list that another one lacks.
func missing(of, from []string) (all []string) {
	for _, one := range of {
		if !slices.Contains(from, one) {
			all = append(all, one)
		}
	}
	return all
}
