// Package hosts tests shoal on virtual machines of stock distributions (package shoal/lab/vm): their kernels, engines, init
// systems and firewalls, as people have them. Nothing of it is a stub: two machines a suite, shoal's binary under its unit of
// systemd, real containers and real packets. It runs by `make test-hosts`, under the build tag hosts; [Report] and what makes
// a page of it have none.
//
// On each suite it makes a cluster of two hosts, a and b, and then goes through its steps. First comes the walk: what has to
// work (names, VIPs from wherever, published ports, draining, traffic between hosts). With it comes the table of who reaches
// what: what has to be closed, and to whom. Then each disturbance, such as a restart of the engine or a firewall that
// is started, and after each of them the walk and the table again.
//
// A step says what should hold. What does not hold fails the test, and is told in the report.
package hosts
