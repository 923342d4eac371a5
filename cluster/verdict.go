package cluster

import (
	"fmt"
	"time"
)

// How verdicts are formed. The bound on the time to a verdict of death, from
// the last sign of life, is
//
//	probeInterval + 2*probeTimeout + (silentRounds-1)*suspectInterval = 0.5 + 0.5 + 1.2 = 2.2 s
//
// Of more than intervalPeers, the first to ask, which is one of all hosts, asks within some
// milliseconds and tells the others (silent.go). For them it is
//
//	2*probeTimeout + soonSpread + 2*probeTimeout + (silentRounds-1)*suspectInterval = 0.5 + 0.2 + 0.5 + 1.2 = 2.4 s
//
// and no pause of a host or of this process of less than 1 s can produce it.
const (
	probeInterval   = 500 * time.Millisecond // from one round of questions to the next
	suspectInterval = 300 * time.Millisecond // the same, while something is amiss
	probeTimeout    = 250 * time.Millisecond // for an answer

	// Up to so many peers, each is asked every probeInterval. Of more, each is asked less
	// often: 80 questions a second are the most that a host asks in all, while nothing is
	// amiss. Somebody asks each all the same every 13 ms, and tells. One that is told of no
	// silence finds a death by itself within 14 s at 1,000 peers.
	intervalPeers = 40

	// The first questions to peers that are known together are spread: so much time for
	// each intervalPeers of them, and mostFirst at most. Else every host of a cluster that
	// starts at once asks all others in one moment, and again in each interval.
	firstRounds = 500 * time.Millisecond
	mostFirst   = time.Second

	silentRounds = 5 // in a row without any sign of life: dead
	toldSilent   = 3 // the same, if gossip says so as well
	ackRounds    = 3 // in a row that a dead host's agent answers: alive

	// restartGrace is how long a host that said its agent restarts may say
	// nothing at all, where a firewall hides whether it runs.
	restartGrace = 10 * time.Second
	// partTime is how long an agent that said goodbye may still answer.
	partTime = 3 * time.Second
	// stall is how much longer than planned a round may take before it says
	// more of this process than of the peer.
	stall = 400 * time.Millisecond
	// sleep is how much longer makes what was heard before it too old to be
	// added to.
	sleep = time.Second
)

// round is what one round of questions found.
type round struct {
	agent   bool   // the peer's agent answered
	talked  bool   // it did so over TCP, to and fro: as good as ackRounds
	host    bool   // its kernel did
	how     string // the answer of the kernel, for people
	stalled bool   // this process did not run for a while in it
	woke    bool   // this process did not run for a long while in it or before
}

// failureDetector holds what is known of one peer and judges by it. It does no I/O.
type failureDetector struct {
	alive   bool
	judged  bool      // at least once
	since   time.Time // of the verdict
	silent  int       // rounds in a row without a sign of life
	acks    int       // rounds in a row that its agent answered
	heard   time.Time // its agent; zero: never
	host    time.Time // its kernel, since it last heard its agent; zero: never
	how     string
	gone    bool // in gossip: dead or left
	parted  bool // its agent said that it restarts, and is not back yet
	saidAt  time.Time
	visible bool          // its kernel answered for the agent since saidAt: nothing hides the host
	grace   time.Duration // see restartGrace
}

// newFailureDetector begins with the benefit of the doubt: an agent that starts must not
// take every other host's tasks out of rotation before it has asked.
func newFailureDetector(now time.Time, grace time.Duration) failureDetector {
	return failureDetector{alive: true, since: now, grace: grace}
}

// part takes in that the peer's agent said that it restarts.
func (j *failureDetector) part(now time.Time) { j.parted, j.saidAt, j.visible = true, now, false }

// come takes in that the peer joined gossip. Whatever it said before, it is
// there.
func (j *failureDetector) come() { j.gone, j.parted, j.silent = false, false, 0 }

// observe takes in the outcome of a round of probes.
func (j *failureDetector) observe(r round, now time.Time) {
	if r.woke {
		j.silent = 0
	}
	switch {
	case r.agent:
		j.judged = true
		if now.After(j.saidAt.Add(partTime)) {
			j.parted = false
		}
		j.silent, j.heard, j.host, j.how = 0, now, time.Time{}, ""
		j.acks++
		if r.talked {
			j.acks = ackRounds
		}
		if !j.alive && j.acks >= ackRounds {
			j.set(true, now)
		}
	case r.host:
		j.judged = true
		j.silent, j.acks, j.host, j.how = 0, 0, now, r.how
		j.visible = true
	case r.stalled:
	default:
		j.acks = 0
		j.silent++
		enough := silentRounds
		if j.gone {
			enough = toldSilent
		}
		if j.silent >= enough {
			j.judged = true
			if !j.inGrace(now) {
				j.set(false, now)
			}
		}
	}
}

// inGrace tells whether silence means nothing yet: the agent restarts, and it
// was never seen that the host could be seen without.
func (j *failureDetector) inGrace(now time.Time) bool {
	return j.parted && !j.visible && now.Before(j.saidAt.Add(j.grace))
}

func (j *failureDetector) set(alive bool, now time.Time) {
	if alive != j.alive {
		j.alive, j.since = alive, now
	}
	j.judged = true
}

// hurried tells whether the next round should come soon.
func (j *failureDetector) hurried() bool {
	if j.alive {
		return j.silent > 0
	}
	return j.acks > 0
}

// reason says in a sentence what the verdict rests on.
func (j *failureDetector) reason(now time.Time) string {
	ago := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return now.Sub(t).Round(100*time.Millisecond).String() + " ago"
	}
	switch {
	case !j.judged:
		return "it was not judged yet, and counts as alive until then"
	case j.alive && !j.host.IsZero() && j.silent == 0:
		why := "its agent does not answer"
		if j.parted {
			why = "its agent restarts"
		}
		return fmt.Sprintf("%s (last heard: %s), but its host does: %s, %s", why, ago(j.heard), j.how, ago(j.host))
	case j.alive && j.inGrace(now):
		return fmt.Sprintf("it said that its agent restarts, %s; nothing answers until then", ago(j.saidAt))
	case j.alive:
		return "its agent answered " + ago(j.heard)
	case !j.host.IsZero() && j.silent == 0:
		return fmt.Sprintf("its host answers (%s), but its agent has not said yet that it is back", j.how)
	}
	return fmt.Sprintf("nothing answers: neither its agent nor TCP nor ICMP echo; its agent was last heard %s", ago(j.heard))
}
