// Package dockerwatch tells which tasks the Docker engine of this host runs.
// It is the only package that knows Docker.
//
// In: the engine's API (lists, inspections, its stream of events) and the
// labels of containers. Out: [model.Local], always the whole of it: every
// running container with its tasks or the reason why it has none, and the
// bridge networks. Following an engine changes nothing of it. Some calls do:
// [Watcher.EnsureNetwork] and [Watcher.RemoveNetwork], for the networks that
// carry this package's label, and [Watcher.Stop]. It owns nothing in the
// kernel, but for what the engine makes there for those networks.
//
// # Labels
//
// One label makes a container a task:
//
//	shoal.service=web
//
// The others say more of that service, each once:
//
//	shoal.stack=shop                its stack; without it the Compose project, else "default"
//	shoal.ports=http:80:8080,53/udp ports of the VIP, [name:]port[:target][/proto]; without it every port, unchanged
//	shoal.publish=8080:80           ports of the hosts, [ip:]published[:target][/proto]
//	shoal.publish.local=false       or true: only hosts with a task answer there, with their own tasks
//	shoal.mode=vip                  or dnsrr: the name answers with the tasks' addresses
//	shoal.scheduler=rr              any IPVS scheduler
//	shoal.weight=1                  this task's weight, 0 to 65535
//	shoal.affinity=client:300       a client keeps its task, seconds from 1 to 86400, 300 if left out
//	shoal.locality=any              or prefer-local: a host's own tasks are given its new connections, while it has any
//	shoal.vip=10.96.4.2             a fixed address of the pool
//	shoal.health=docker             or none: the HEALTHCHECK of the container does not matter
//	shoal.ready=port                or none: without a HEALTHCHECK, its ports do not matter either
//	shoal.drain=10s                 how long it may finish what it holds, 0 to 1h; a plain number is seconds
//	shoal.network=NAME              the network it is reached on; needed if there are several
//
// A protocol is tcp (the default), udp or sctp. Ranges are for shoal.publish
// alone, equally long on both sides: 7000-7010, 7000-7010:8000-8010. An IPv6
// address stands in brackets: [::1]:8080:80. Lists may have spaces around
// their commas. "port" may be written for "ports".
//
// A container that is a task of several services names them in its labels,
// with the same keys, all but service and stack:
//
//	shoal.services.web.ports=80:8080
//	shoal.services.metrics.ports=9090
//	shoal.services.metrics.weight=2
//
// A service is there as soon as one of its keys is. Both forms go together:
// shoal.service and its keys describe one service, each shoal.services.NAME
// another; none is described in both. shoal.health, shoal.ready, shoal.drain and
// shoal.network are about the container, and so hold for all of its services
// that do not say otherwise; every other plain key belongs to shoal.service
// alone.
//
// Names of services and of stacks are DNS labels. A Compose project name has
// its underscores turned into hyphens and its capitals into small letters.
//
// Labels that begin with "shoal." and are none of these are refused: a typing
// mistake is to be seen. What is refused is the container, with all of its
// services, and only that container ([model.Container.Problem]).
//
// Labels of the container's image are not obeyed, whatever labels the container
// has besides, and are a notice: a container joins the mesh because whoever
// started it said so. The engine tells labels of both as one: one that says what
// the image says is taken for the image's; see image.go. An image is asked for
// once, when a container of it has such labels; if it is gone, they are taken for
// the container's.
//
// # Readiness
//
// A task that no HEALTHCHECK speaks for enters rotation when its ports accept
// connections, or after a limit ([Options].Ready); ready.go says which ports those are.
// It is tried by connections from this host to the task's own address, which are closed
// as soon as they come about: a server that logs each of its clients logs this one, once
// a start and port. A TLS server may log a handshake that was not made. shoal.ready=none,
// or a HEALTHCHECK, does without. An agent that starts takes nothing out of rotation.
//
// # Flapping
//
// A task that cannot be in rotation leaves it at once. One that comes back too often
// is let in more and more slowly; see damp.go.
//
// # Addresses that change hands
//
// An address that a task has left rests for three seconds, in which other hosts learn
// that it left ([model.Local].Resting). A container of other services that has the
// address meanwhile enters rotation after that; see rest.go. It is so with addresses
// that other hosts reach ([Options].Reached). An agent that starts knows of no rest.
//
// # Deaths
//
// That a task's container has died is told by the kernel, which does so at once
// and whether or not the engine is there; see exits.go. All else is the engine's
// word.
//
// # Networks
//
// A task is reached on a network of the bridge driver, or at the host's own
// address if its container runs on the host's network. Networks of the drivers
// macvlan and ipvlan do not count: the kernel lets no packet pass between them
// and the host they are on. Nor do overlay networks, of which the host has no
// part. A container that has joined another's network (--network container:X)
// is reached at X's address, for as long as X runs: a restart of X gives X a
// new network and leaves those that joined it behind in the old one.
package dockerwatch
