// Package preflight finds out what on a host keeps shoal from working, or will
// get in its way, before the agent runs and each time that it starts.
//
// In: the settings of the agent that matter here. Out: findings, each with what
// it means and what to do. [Gather] reads the host and judges nothing; [Judge]
// judges and reads nothing. It changes nothing but what a data plane does when it
// is asked whether the kernel is fit for it: that loads modules.
package preflight
