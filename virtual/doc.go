// Package virtual decides which tasks are real servers of an IPVS virtual
// service, and how the kernel's service comes from what it is to that.
//
// In: tasks, and a virtual service as the kernel has it. Out: a [Service] as it
// should be, and the [Plan] that leads there. Both are values, made without I/O.
// [Table] carries plans out, and follows what is known of the kernel. It owns
// nothing of the kernel: whose mark it is, and when packets are given it, is for
// the packages lb and ingress.
package virtual
