// Command whoami is the one program of the lab's test image: a server that says who it is and who asked, and a client
// that asks. It is static, and runs on hosts as well as in containers.
//
//	whoami serve [--http PORTS] [--tcp PORTS] [--udp PORTS] [--sctp PORTS] [--next URL] [--late D] [--linger D]
//	whoami get   [--timeout D] [--from-port N] [--payload TEXT] URL
//	whoami load  [--keep|--hold] [--workers N] [--interval D] [--count N] [--for D] [--until-file PATH] [--progress] [--each] ... URL...
//
// serve answers HTTP on / and every other path with its fields (see package shoal/lab/traffic), a line each, and on
// /health 200, or 503 while the file /tmp/sick exists; /slow?d=2s after that time; /bytes?n=1000 with as many bytes;
// /chain with its fields and then what the server at --next answers to /chain.
// Over TCP, UDP and SCTP it answers each line, or datagram, with its fields in a line and, as echo, what it got. It
// listens after the time --late. At SIGTERM it goes on for the time --linger, then takes no new connections, and finishes the
// requests it has, for up to 10 s.
//
// get prints the answer; its status is 1 where there is none. load asks until told to stop, by SIGTERM or a flag, and
// prints its summary as a line of JSON, with --each one for every request before it. Of several targets, which --count has to be given for, it asks one after the
// other, and prints a line each.
package main
