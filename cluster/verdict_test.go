package cluster

import (
	"strings"
	"testing"
	"time"
)

func TestVerdict(t *testing.T) {
	ack, nothing, stalled := round{agent: true}, round{}, round{stalled: true}
	woke := round{woke: true}
	refused := round{host: true, how: "it refuses TCP connections on port 7946"}
	type step func(j *failureDetector, now time.Time)
	observe := func(n int, r round) step {
		return func(j *failureDetector, now time.Time) {
			for range n {
				j.observe(r, now)
			}
		}
	}
	gone := func(j *failureDetector, _ time.Time) { j.gone = true }
	come := func(j *failureDetector, _ time.Time) { j.come() }
	parts := func(j *failureDetector, now time.Time) { j.part(now) }
	died := []step{observe(1, ack), observe(silentRounds, nothing)}
	for _, tt := range []struct {
		name   string
		steps  []step
		later  time.Duration // before the last step
		alive  bool
		reason string
	}{
		{"not asked yet", nil, 0, true, "not judged yet"},
		{"answers", []step{observe(1, ack)}, 0, true, "its agent answered"},
		{"silent for four rounds", []step{observe(1, ack), observe(silentRounds-1, nothing)}, 0, true, "its agent answered"},
		{"silent for five", died, 0, false, "nothing answers"},
		{"never answered", []step{observe(silentRounds, nothing)}, 0, false, "last heard never"},
		{"silent, with one answer in between", []step{observe(silentRounds-1, nothing), observe(1, ack), observe(silentRounds-1, nothing)}, 0, true, ""},
		{"silent, while this process did not run", []step{observe(1, ack), observe(20, stalled)}, 0, true, "its agent answered"},
		{"silent for four, and more after this process slept", []step{observe(1, ack), observe(silentRounds-1, nothing), observe(1, woke), observe(silentRounds-2, nothing)}, 0, true, "its agent answered"},
		{"silent for five after this process slept", []step{observe(1, ack), observe(1, woke), observe(silentRounds-1, nothing)}, 0, false, "nothing answers"},
		{"silent for three, and gossip says so", []step{observe(1, ack), gone, observe(toldSilent, nothing)}, 0, false, "nothing answers"},
		{"gossip says so alone", []step{observe(1, ack), gone, observe(toldSilent-1, nothing)}, 0, true, ""},
		{"gossip took it back", []step{observe(1, ack), gone, come, observe(toldSilent, nothing)}, 0, true, ""},
		{"agent killed, host alive", []step{observe(1, ack), gone, observe(100, refused)}, 0, true, "its host does: it refuses TCP"},
		{"then the host dies too", []step{observe(1, ack), gone, observe(100, refused), observe(toldSilent, nothing)}, 0, false, "nothing answers"},
		{"a dead host's kernel answers", append(died[:2:2], observe(100, refused)), 0, false, "its agent has not said yet"},
		{"a dead host's agent answers twice", append(died[:2:2], observe(ackRounds-1, ack)), 0, false, ""},
		{"and three times", append(died[:2:2], observe(ackRounds, ack)), 0, true, "its agent answered"},
		{"every second time", append(died[:2:2], observe(2, ack), observe(1, nothing), observe(2, ack)), 0, false, ""},
		{"restarts behind a firewall", []step{observe(1, ack), parts, gone, observe(100, nothing)}, 0, true, "said that its agent restarts"},
		{"for too long", []step{observe(1, ack), parts, gone, observe(100, nothing), observe(1, nothing)}, restartGrace, false, "nothing answers"},
		{"restarts, is seen, then silent", []step{observe(1, ack), parts, gone, observe(1, refused), observe(toldSilent, nothing)}, 0, false, ""},
		{"restarts in the open", []step{observe(1, ack), parts, gone, observe(100, refused)}, 2 * restartGrace, true, "its agent restarts"},
		{"restarted behind a firewall, with a question still open", []step{observe(1, ack), parts, gone, observe(100, nothing), come, observe(1, nothing)}, 0, true, ""},
		{"a dead host's agent answers over TCP", append(died[:2:2], observe(1, round{agent: true, talked: true})), 0, true, "its agent answered"},
		{"a dead host said to restart", append(died[:2:2], parts), 0, false, "nothing answers"},
		{"restarted, then silent", []step{observe(1, ack), parts, gone, come, observe(silentRounds, nothing)}, 0, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Now()
			j := newFailureDetector(now, restartGrace)
			for i, step := range tt.steps {
				if i == len(tt.steps)-1 {
					now = now.Add(tt.later)
				}
				step(&j, now)
			}
			if got := j.reason(now); j.alive != tt.alive || !strings.Contains(got, tt.reason) {
				t.Errorf("alive: %t, because %s; want %t, because %s", j.alive, got, tt.alive, tt.reason)
			}
		})
	}
}

func TestGoodbye(t *testing.T) {
	if node, ok := decodeGoodbye(encodeGoodbye("b")); node != "b" || !ok {
		t.Errorf("it comes back as one of %q, %t", node, ok)
	}
	for _, s := range []string{"", "{", `{"v":2,"node":"b","why":"restarting"}`, `{"v":1,"node":"b","why":"leaving"}`} {
		if _, ok := decodeGoodbye([]byte(s)); ok {
			t.Errorf("%q is taken for a goodbye", s)
		}
	}
}
