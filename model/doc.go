// Package model has the nouns of the mesh as plain values: hosts, services,
// tasks and their ports, what one host's engine has, problems, and the
// [Snapshot] of a whole cluster.
//
// Nothing comes in and nothing goes out: no file, no kernel, no network. It
// depends on the standard library alone, and on shoal/internal/cow, which does, so that whoever acts on a Snapshot
// needs to know neither where it is kept nor who made it.
package model
