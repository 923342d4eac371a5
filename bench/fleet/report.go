package fleet

import (
	"fmt"
	"strings"
	"time"
)

// row is one figure of the table.
type row struct{ phase, what, figure string }

// markdown is the table of the rows.
func markdown(rows []row) string {
	var s strings.Builder
	s.WriteString("| phase | what | figure |\n|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&s, "| %s | %s | %s |\n", r.phase, r.what, r.figure)
	}
	return s.String()
}

// cost are the rows of what a phase used. hosts is by how many it is shared.
func cost(phase string, u usage, hosts, processors int) (rows []row) {
	seconds := u.over.Seconds()
	add := func(what, format string, a ...any) { rows = append(rows, row{phase, what, fmt.Sprintf(format, a...)}) }
	add("took", "%s; %.0f%% of %d processors were used", short(u.over), 100*u.busy(processors), processors)
	for _, part := range []string{partStore, partCatalog, partLiveness} {
		t, measured := u.cpu[part]
		if !measured {
			continue
		}
		if part == partStore {
			add("processor, store", "%.1f s: %.1f%% of one; memory %s", t.Seconds(), 100*t.Seconds()/seconds, amount(float64(u.memory[part]), "B"))
			continue
		}
		add("processor, "+part, "%.1f s: %.3f%% of one for a host; memory %s, %s for a host", t.Seconds(), 100*t.Seconds()/seconds/float64(hosts),
			amount(float64(u.memory[part]), "B"), amount(float64(u.memory[part])/float64(hosts), "B"))
	}
	sent := func(what, name string) {
		if c := u.sent[name]; c.Packets > 0 {
			add("sent, "+what, "%s, %s in %s: %s/s for a host", amount(float64(c.Bytes), "B"), amount(float64(c.Bytes)/seconds, "B/s"),
				amount(float64(c.Packets), "packets"), amount(float64(c.Bytes)/seconds/float64(hosts), "B"))
		}
	}
	sent("hosts and store", countStore)
	sent("servers of the store", countPeers)
	sent("questions and gossip by UDP", countPackets)
	sent("gossip by TCP", countStreams)
	sent("ICMP echo", countEcho)
	if _, measured := u.cpu[partStore]; measured {
		add("store", "%d proposals, %.1f/s; %d revisions; its database %s", u.store.Proposals, float64(u.store.Proposals)/seconds, u.store.Revision,
			amount(float64(u.store.Bytes), "B"))
	}
	return rows
}

// outcome is what is looked at to tell what breaks first.
type outcome struct {
	phase string
	busy  float64 // of all processors, 0 to 1
	most  string  // the part that used the most of it
	open  int     // hosts, or verdicts, that did not come to be as they should in time
	wrong int     // verdicts of death on hosts that live
	found times   // deaths
}

// What a fleet should do: a dead host is found within detectLimit by 99 of 100.
const (
	detectLimit = 3 * time.Second
	fullBusy    = 0.9
)

// breaks says what of the outcomes breaks first, in the order of the phases.
func breaks(all []outcome) string {
	for _, o := range all {
		var what []string
		if o.busy >= fullBusy {
			what = append(what, fmt.Sprintf("this machine's processors are used up, first of all by the part %s", o.most))
		}
		if o.wrong > 0 {
			what = append(what, fmt.Sprintf("%d verdicts of death on hosts that live", o.wrong))
		}
		if o.open > 0 {
			what = append(what, fmt.Sprintf("%d did not get to the right state in time", o.open))
		}
		if p99 := o.found.quantile(0.99); p99 > detectLimit {
			what = append(what, fmt.Sprintf("a death is found after %s at p99, which should be %s", short(p99), short(detectLimit)))
		}
		if len(what) > 0 {
			return fmt.Sprintf("What breaks first: in the phase %s, %s.", o.phase, strings.Join(what, "; "))
		}
	}
	return "Nothing breaks at this size."
}
