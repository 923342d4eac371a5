// Package slots fills the slots of a frontend with its backends. A scheduler is a
// way to fill them, and a way to choose one of them for a new connection: the
// former is here, the latter is the kernel's, in rules or in a program.
//
// In: a scheduler's name, as IPVS has it, and backends with weights. Out: for each
// slot, a backend. It is pure.
//
//	rr        a slot a backend, in turn
//	wrr       as many slots as its weight says, spread, in turn
//	fo        one slot: the backend with the highest weight
//	sh, mh    slots by Maglev hashing, chosen by the client
//	dh        likewise, chosen by the address that the client sends to
//
// Schedulers that count connections are not among them: who fills slots does not
// see connections end.
package slots
