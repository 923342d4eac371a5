package agent

import (
	"strings"
	"testing"
	"time"
)

func TestThreeHostsServeTheStore(t *testing.T) {
	now := time.Unix(1e9, 0)
	const lostAfter = 10 * time.Minute
	// "a*" serves; "b-5m" is dead for five minutes.
	parse := func(text string) (hosts []candidate) {
		for _, word := range strings.Fields(text) {
			name, dead, isDead := strings.Cut(word, "-")
			h := candidate{name: strings.TrimSuffix(name, "*"), serves: strings.HasSuffix(name, "*"), alive: !isDead}
			if isDead {
				for_, err := time.ParseDuration(dead)
				if err != nil {
					t.Fatal(err)
				}
				h.since = now.Add(-for_)
			}
			hosts = append(hosts, h)
		}
		return hosts
	}
	for _, test := range []struct{ what, hosts, want string }{
		{"one alone", "a*", ""},
		{"two", "a* b", ""},
		{"three: the second serves too", "a* b c", "b serves"},
		{"in whatever order they are known", "c b a*", "b serves"},
		{"and then the third", "a* b* c", "c serves"},
		{"all three", "a* b* c*", ""},
		{"a fourth is spare", "a* b* c* d", ""},
		{"a dead one is no candidate", "a* b-1m c d", "c serves"},
		{"of three, one dead: too few", "a* b c-1m", ""},
		{"a server is away for a while", "a* b* c*-9m d", ""},
		{"a server is lost", "a* b* c*-10m d", "a removes c"},
		{"the first one is", "a*-10m b* c* d", "b removes a"},
		{"its place is taken", "b* c* d e", "d serves"},
		{"lost, and nobody to take its place", "a* b* c*-1h", ""},
		{"no majority: nothing can be changed", "a* b*-1h c*-1h d e", ""},
		{"five, by hand", "a* b* c* d* e* f", ""},
	} {
		got := ""
		for _, self := range parse(test.hosts) {
			if !self.alive {
				continue
			}
			switch promote, remove := serverStep(self.name, parse(test.hosts), lostAfter, now); {
			case promote:
				got += self.name + " serves"
			case remove != "":
				got += self.name + " removes " + remove
			}
		}
		if got != test.want {
			t.Errorf("%s (%s): %q, want %q", test.what, test.hosts, got, test.want)
		}
	}
}
