// Package cluster answers two questions: who belongs to the cluster, and who
// of them is alive.
//
// # Who belongs
//
// In: a state folder, a join token, and a [Store] in which the hosts agree.
// Out: an [Identity], with TLS configurations and certificate files for
// whatever talks between hosts, and a [Server] which lets new hosts in and
// carries the handlers of others behind mutual TLS.
//
// The first host ([Create]) makes the cluster's certificate authority (CA), a
// certificate for itself and the key that gossip is encrypted with. Another
// host ([Join]) presents a token, SHOAL-1-FINGERPRINT-SECRET: by the CA's
// fingerprint it knows the cluster before it says anything, by the secret the
// cluster knows that it was invited. A host's identity is its key pair, made
// on the host, which never leaves it; its certificate is renewed with the same
// key. Removing a host puts its key on a list of revoked ones that every host
// watches and keeps on disk.
//
// The CA's key is held by the first host and by those it is given to
// ([Identity.FetchCA]): the hosts that serve the store with a vote. Only they can
// admit hosts and renew certificates.
//
// # Who is trusted with what
//
// Every member with everything. Its certificate opens etcd's client port, and
// etcd has no users here: any member can read and write all of the store, other
// hosts' records, tokens and the list of removed hosts among them, and call for
// changes of etcd's own members. What is checked protects from hosts that are
// not members, or not any more, and from mistakes; not from a member that is
// hostile. One that held the CA's key can besides make certificates of its own,
// for names that were never members. Either has to be answered with a new
// cluster.
//
// A removed host is refused by every host as soon as that has heard of it: new
// connections in the handshake, on this package's port and on both of etcd's;
// requests on connections that are open, by this package's [Server] and by etcd
// on its client port, watches included ([Identity.CheckRevoked]). What is not
// cut are connections that it holds to etcd's peer port (2380): etcd ends the
// streams of a member that is removed, which shoal node rm does first, but does
// not look at the certificate of an open connection again. A host that is cut off from the store hears of
// removals when it is back, and accepts the removed ones until then.
//
// Hosts that share an etcd of the user's need no host to admit them: each may
// write anything there already. The CA, with its key, is in that store, and so
// on every host ([JoinByStore], [Identity.ShareCA]); all are equal, and any of
// them may be lost. Who can read the store can be a host.
//
// The key of gossip is made once. A removed host still knows it and can go on
// listening to gossip, which tells names and addresses. It can say in another
// host's name that its agent restarts, which puts off a verdict of death by 10 s
// at most, and that a host is gone, which makes silence count as death after
// three questions rather than five, or silent, for which that is asked sooner; and it can
// answer in a host's place.
// Changing the key is not provided for.
//
// A cluster that lost the CA's key goes on under a new CA ([CreateBeside],
// [Identity.TellRecovered], [JoinBeside], [Change]).
//
// # Who is alive
//
// In: the other hosts' names and addresses. Out: a verdict on each
// ([Liveness.States]), with its reason, formed by this host from what it sees
// itself. Each host asks each other host's agent twice a second over the
// encrypted gossip of memberlist; of more than 40, each less often, and 80 a second in
// all. There the first to find one silent tells the others (silent.go). Where the agent is silent, the host is
// asked: a refused TCP connection or an answered ICMP echo shows that it
// runs, and its tasks with it, though its agent may be restarting. Only a host
// from which nothing comes is dead; only the word of its agent brings it back.
// What the others say (gossip) makes a host look sooner and is never a
// verdict. It tells where a host is that has moved ([PeerState]), for one that
// lost sight of the store with it.
//
// Where the store does not tell, hosts tell each other which of their lists of
// containers is the last ([Generation]), so that others can fetch it.
//
// What strangers can make the gossip port hold is bounded: its connections are by
// mutual TLS, see port.go and streams.go.
//
// The package owns files in its folder and two ports, and nothing in the
// kernel. It knows nothing of containers, tasks and etcd.
package cluster
