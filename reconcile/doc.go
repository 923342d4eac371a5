// Package reconcile is what every part that keeps something as Snapshots say
// has in common: the loop that runs its passes, and the record of what failed.
//
// In: Snapshots, and for a [Loop] notifications that somebody changed the
// kernel. Out: passes of a part at the right times, and its problems, dated.
//
// A pass makes the kernel as the newest Snapshot says. A full pass reads back
// what the kernel really has; any other compares with the Snapshot before. What
// fails is recorded on its object in [Failures], which says when it is worth
// another try, and stops no other object.
//
// The package owns nothing in the kernel.
package reconcile
