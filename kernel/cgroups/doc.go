// Package cgroups finds the version 2 hierarchy of control groups, and which
// processes are in a group of it (cgroups(7)).
//
// In: what /proc tells of mounts and processes, and the paths of groups. Out:
// where programs can be attached, and whom they would be about. It writes nothing.
package cgroups
