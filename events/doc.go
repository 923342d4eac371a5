// Package events tells what happens in the cluster, as one host sees it: tasks that
// start, enter rotation and leave, services and hosts that come and go, problems.
//
// In: two Snapshots, or two lists of problems, one after the other. Out: [Event]s,
// by the pure functions [Between] and [OfProblems]; and a [Log], which keeps the last
// of them and has any number of readers follow. It touches nothing of the kernel, and
// reads no clock.
package events
