// Package vip gives services their virtual addresses, one each, for good.
//
// In: Snapshots of the catalog, which say who has which VIP. Out: claims,
// carried out by the catalog in transactions, and problems of the services
// that could not be given one.
//
// A host claims for the services it has tasks of, so each service has somebody
// to claim for it and no host is in charge. What it decides is without memory
// and without I/O: where two hosts decide on one address, the catalog lets one of
// them have it and the other decides again. A VIP belongs to its service until
// `shoal service rm` gives it back, or until the pool is full and the service has
// long been idle. It is handed on to no other service before clients have had time
// to notice: some minutes after the last task of the one that had it.
//
// The package owns nothing in the kernel.
package vip
