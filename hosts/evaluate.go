package hosts

import (
	"fmt"
	"slices"
	"strings"
)

// verdict is whether a target should be reached.
type verdict string

const (
	open   verdict = "open"
	closed verdict = "closed"
	either verdict = "either" // nothing is said of it
)

// target is something of host a that somebody may want to reach.
type target struct {
	kind string // a column of the table
	url  string // as whoami reach takes it
}

// evaluate compares what came of a row with what it should be: wrong is what is open and has to be closed, missing what is closed
// and has to be open.
func evaluate(who string, may map[string]verdict, targets []target, out string) (wrong, missing []string) {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if out == "" {
		return nil, nil // there is nobody
	}
	for _, t := range targets {
		i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, t.url+" ") })
		if i < 0 {
			missing = append(missing, fmt.Sprintf("%s: nothing came of %s", who, t.url))
			continue
		}
		outcome := strings.TrimPrefix(lines[i], t.url+" ")
		switch {
		case may[t.kind] == closed && outcome == "open":
			wrong = append(wrong, fmt.Sprintf("%s reaches %s, which has to be closed to it (%s)", who, t.kind, t.url))
		case may[t.kind] == open && outcome != "open":
			missing = append(missing, fmt.Sprintf("%s does not reach %s, which has to be open to it (%s: %s)", who, t.kind, t.url, outcome))
		}
	}
	return wrong, missing
}

// through finds in what tcpdump wrote the first line that says that a packet of this sender got through: it goes out to
// somewhere else than it came from, or its target answers by more than a refusal. A router sends what is for nobody it knows
// back to the link.
func through(captured, sender string) string {
	device := func(line string) string { return strings.Fields(line + " - -")[1] }
	from, to := " "+sender+" > ", " > "+sender+":"
	came := map[string]bool{}
	for line := range strings.Lines(captured) {
		if strings.Contains(line, " In ") && strings.Contains(line, from) {
			came[device(line)] = true
		}
	}
	for line := range strings.Lines(captured) {
		switch {
		case !strings.Contains(line, " Out "):
		case strings.Contains(line, from) && !came[device(line)]:
			return strings.TrimSpace(line)
		case strings.Contains(line, to) && !strings.Contains(line, "Flags [R"):
			return strings.TrimSpace(line)
		}
	}
	return ""
}
