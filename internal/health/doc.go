// Package health keeps what tells whether a running program is well.
//
// In: what it takes until the program serves ([State.Met]), and a heartbeat of each
// loop that has to make progress ([Heart.Beat]). Out: what is missing still
// ([State.Missing]), and which loops are stuck ([State.Stale]).
//
// A loop that waits beats as well: it ticks by [Heart.Every] meanwhile. So what
// is stale hangs, and is not merely idle.
//
// The package owns nothing and starts no goroutine: others ask it.
package health
