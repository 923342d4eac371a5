package hosts

import (
	"strings"
	"testing"
)

func TestJudgeTellsHolesFromWhatIsMissing(t *testing.T) {
	targets := []target{{"secret", "tcp://a:1"}, {"shop", "tcp://a:2"}, {"attic", "udp://a:2"}}
	may := map[string]verdict{"secret": closed, "shop": open, "attic": either}
	for name, test := range map[string]struct {
		out            string
		wrong, missing string // what is said; "": nothing
	}{
		"as it should be":       {"tcp://a:1 silence\ntcp://a:2 open\nudp://a:2 refused\n", "", ""},
		"a hole":                {"tcp://a:1 open\ntcp://a:2 open\nudp://a:2 open\n", "somebody reaches secret, which has to be closed to it (tcp://a:1)", ""},
		"a refusal is no entry": {"tcp://a:1 refused\ntcp://a:2 refused\nudp://a:2 open\n", "", "somebody does not reach shop, which has to be open to it (tcp://a:2: refused)"},
		"a line is missing":     {"tcp://a:1 silence\ntcp://a:2 open\n", "", "somebody: nothing came of udp://a:2"},
		"nobody is there":       {"", "", ""},
	} {
		wrong, missing := evaluate("somebody", may, targets, test.out)
		if got := strings.Join(wrong, "\n"); got != test.wrong {
			t.Errorf("%s: wrong is %q, want %q", name, got, test.wrong)
		}
		if got := strings.Join(missing, "\n"); got != test.missing {
			t.Errorf("%s: missing is %q, want %q", name, got, test.missing)
		}
	}
}

func TestThroughTellsWhatAForgedPacketMet(t *testing.T) {
	const sender = "10.244.0.4.55500"
	for name, test := range map[string]struct {
		captured string
		found    bool
	}{
		"dropped":               {"12:00:00.1 eth1  In  IP 10.244.0.4.55500 > 10.244.0.3.8000: Flags [S], seq 1", false},
		"forwarded":             {"12:00:00.1 mesh  Out IP 10.244.0.4.55500 > 10.244.0.3.8000: Flags [S], seq 1", true},
		"back to the link":      {"12:00:00.1 eth1  In  IP 10.244.0.4.55500 > 169.254.83.1.8080: Flags [S], seq 1\n12:00:00.2 eth1  Out IP 10.244.0.4.55500 > 169.254.83.1.8080: Flags [S], seq 1", false},
		"in and through":        {"12:00:00.1 eth1  In  IP 10.244.0.4.55500 > 10.244.0.3.8000: Flags [S], seq 1\n12:00:00.2 mesh  Out IP 10.244.0.4.55500 > 10.244.0.3.8000: Flags [S], seq 1", true},
		"answered":              {"12:00:00.1 mesh  Out IP 10.96.0.1.8000 > 10.244.0.4.55500: Flags [S.], seq 1, ack 2", true},
		"answered by datagram":  {"12:00:00.1 mesh  Out IP 10.96.0.10.53 > 10.244.0.4.55500: UDP, length 40", true},
		"refused":               {"12:00:00.1 mesh  Out IP 10.244.0.3.8000 > 10.244.0.4.55500: Flags [R.], seq 0, ack 2", false},
		"another, by its digit": {"12:00:00.1 mesh  Out IP 10.244.0.3.8000 > 10.244.0.4.5550: Flags [S.], seq 1", false},
		"of another address":    {"12:00:00.1 mesh  Out IP 110.244.0.4.55500 > 10.244.0.3.8000: Flags [S], seq 1", false},
	} {
		if line := through(test.captured+"\n", sender); (line != "") != test.found {
			t.Errorf("%s: found %q", name, line)
		}
	}
}

func TestTableSaysSomethingOfEverything(t *testing.T) {
	for _, r := range append(table[:len(table):len(table)], forgery) {
		if len(r.may) != len(columns) {
			t.Errorf("%s: %d of %d columns", r.who, len(r.may), len(columns))
		}
		for _, column := range columns {
			if r.may[column] == "" {
				t.Errorf("%s: nothing is said of %s", r.who, column)
			}
		}
	}
	if page := tableMarkdown(); !strings.Contains(page, "| a neighbour on the link | closed | closed | open | closed | closed | closed | - | closed |\n") {
		t.Errorf("the page has\n%s", page)
	}
}
