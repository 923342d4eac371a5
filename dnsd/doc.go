// Package dnsd is the mesh's DNS server: names of services become addresses,
// everything else is asked of the host's own resolvers.
//
// In: Snapshots ([Server.Update]) and questions over UDP and TCP. Out:
// answers. It owns its sockets and a cache, and nothing in the kernel: the
// address it listens on may be made local by others, before or after. It
// never touches Docker, etcd or the resolv.conf it reads.
//
// # Names
//
// With the zone "mesh.internal", a service web of stack shop has
//
//	web  web.shop  web.mesh.internal  web.shop.mesh.internal
//	    A (or AAAA): the VIP; in mode dnsrr every task in rotation, in random rotation
//	tasks.NAME      A: every running task, healthy or not
//	_http._tcp.NAME SRV: the service's port of that name. The target is web.shop.mesh.internal,
//	    the port that of the VIP. In mode dnsrr there is no VIP to map ports, so the port is the
//	    tasks' own; while tasks of one service differ, the newest says.
//	PTR of a VIP: web.shop.mesh.internal; of a task: tasks.web.shop.mesh.internal
//
// NAME stands for any of the four forms. A name's first label "tasks" is never
// a service.
//
// Without a stack the name means the service of the stack of the container that
// asks, else that of "default", where the services are that name no stack and
// belong to no Compose project: they are everybody's. One that has no tasks
// gives way to one that has some. Other stacks' services are never meant, as
// somebody who starts one would otherwise choose what a name leads to that
// others ask for. With [Options.FlatNames] the name then means the only service
// of that name anywhere, those without tasks again not counted where one has
// some. Where only other stacks have a service, or with FlatNames several, the
// answer in the zone is NXDOMAIN with an extended error (RFC 8914) that names
// the stacks.
//
// Outside of the zone NAME.STACK is forwarded if STACK is a public suffix, or
// otherwise reserved (public.go): stack com does not make github.com a name of
// the mesh. [Server.Problems] tells which services that concerns.
//
// The zone is its own name server (its NS is itself, its address the listen
// addresses), so that no label is taken from the services. Labels between a
// name and the zone exist, without records (RFC 8020): a stack's name, "_tcp".
//
// Nothing inside the zone or in the reverse zone of the VIP pool is ever
// forwarded. Outside the zone, what is no name of a service is forwarded;
// names below an existing service's (_x._tcp.web) are not. Their negative
// answers carry a SOA at the question's own name, the closest zone cut one
// can claim there. Addresses of tasks have their PTR here; all other reverse
// questions, private ones too, are forwarded, as the host's resolvers may
// well serve them (RFC 6303 leaves that to the administrator). resolver.arpa
// is empty (RFC 9462 section 6.4): a client must not be led past this server.
//
// # Who is answered
//
// Loopback, the listen addresses, this host's Docker networks, every
// container and every host of the cluster, and [Options.Allow]. Others get
// REFUSED over UDP, an answer no longer than their question but for six
// octets of extended error; their TCP connections are closed.
//
// Questions that wait for an upstream, and TCP connections, are limited for each
// client, and in total. At the limit those who have most give way, by network and
// then by client, to those who have less (limiter.go).
//
// A question for a foreign name without RD is REFUSED: the cache would tell what
// others have asked. A foreign name whose answer has an address of the VIP pool,
// or of the mesh's containers, is answered with no records and the extended error
// Blocked (rebind.go).
//
// # How
//
// Two implementations of the same rules stand side by side. The fast path
// (wire.go, table.go) reads a plain question off the wire and copies records
// packed when the Snapshot came, without lock or allocation. Whatever is not
// a plain question goes to the slow path (slow.go, records.go), which builds
// its answer from the Snapshot with miekg/dns. A fuzz target holds one
// against the other.
//
// Forwarding loops (a host resolver that asks us) are found three ways: our
// own addresses are no upstreams; a question that comes back while it is in
// flight joins that flight instead of starting another; and a probe with a
// random name, sent to each new upstream and to one that times out, shows
// that an upstream leads back here: it is left alone for a while.
package dnsd
