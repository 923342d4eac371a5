// Package clock has a host's agent, and its store, see a wrong time of day.
//
// Linux has one wall clock for all: namespaces of time do not have it. Go reads it without the C library, so that no library can be
// put between. So `make tests` builds bin/shoal-clock, which is shoal with two changes of Go's package time
// (go build -overlay): skew.go.txt is a file more, and [time.Now] adds what it says to the seconds. That is the number in a
// file, eight octets of this machine's order, that the variable LAB_CLOCK names and the program has mapped: so a [Clock] steps
// while the program runs. What Go measures by the monotonic clock, timers and durations, goes right, as it
// does where a real clock is set.
package clock
