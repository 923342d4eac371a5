// Package costs has the benchmarks of what needs no kernel, at the size that the
// project has set itself: 10,000 services, 100,000 tasks, 1,000 hosts.
package costs
