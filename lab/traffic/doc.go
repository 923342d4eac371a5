// Package traffic makes requests over HTTP, TCP, UDP and SCTP, one or many, and says what became of them and who
// answered. The whoami program of the lab's test image answers them: an answer is a text of fields like
//
//	hostname=3f2a81 client=10.1.0.7:40112 local=10.1.0.2:8000 addresses=10.1.0.2
//
// In goes a target, the URL http://host:port/path, tcp://host:port, udp://host:port or sctp://host:port. Out comes a
// [Reply] or a [Summary]. The package owns no state and knows nothing of Docker or shoal.
package traffic
