// Package diagnose tells why a service can be reached or cannot.
//
// An [Inspector] explains a service or a container step by step from its name
// to its tasks, shows how the DNS server understands a name, and follows a
// packet over all hosts on its way. It reads the newest Snapshot, and what the
// kernel has just now through small interfaces; it writes nothing. What another
// host's kernel has it asks of that host's agent, whose own Inspector answers
// with a [Part].
//
// [Problems] is the list of what keeps single objects from working, which the
// agent's parts report to.
package diagnose
