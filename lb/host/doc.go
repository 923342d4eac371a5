// Package host keeps what every data plane needs of the host, beside rules of
// its own: parameters of the kernel, the route that makes VIPs local, and the
// bridges of this host's tasks.
//
// In: the pool of VIPs, a [lb.Base] with the endpoints, and a folder for former
// values. Out: the network namespace of the calling thread. Each function
// compares with the kernel and writes what differs; where nothing does, it
// writes nothing.
//
// It owns one local route, of protocol 83. What else it changes is the host's:
// [Down] puts that back, after any number of restarts, whichever plane changed
// it. A plane that another one takes over from leaves all of it to that one.
package host
