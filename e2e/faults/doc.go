// Package faults is what the fault suite decides, apart from what it does.
//
// In goes a seed; out comes a [Step] after another ([Plan]): what breaks, where, and for how long. In go the requests of
// a load and the [Window] of each fault; out comes which failures none of the faults excuses ([Excuse]), and which
// answers came from a wrong service ([Request.Wrong]). In go what each host says it balances and what there is; out comes where
// they differ ([Differences]).
//
// The package does nothing: package shoal/e2e breaks the hosts, makes the requests and looks at the kernels.
package faults
