package model

import "testing"

func TestAClusterIsDegradedByProblemsAndNotByNotices(t *testing.T) {
	dead := func(host, by string) Problem { return Problem{Node: host, By: by, Code: HostDead, Object: host} }
	for name, test := range map[string]struct {
		problems          []Problem
		state, summary    string
		severe            bool
		problemN, noticeN int
	}{
		"nothing":           {nil, Healthy, "healthy", false, 0, 0},
		"a notice":          {[]Problem{{Code: RulesSaved, Notice: true}}, Healthy, "healthy", false, 0, 1},
		"a problem":         {[]Problem{{Code: LabelsInvalid, Object: "x"}, {Code: RulesSaved, Notice: true}}, Degraded, "1 problem", false, 1, 1},
		"of several hosts":  {[]Problem{dead("c", "a"), dead("c", "b")}, Degraded, "1 host dead, 1 problem", true, 1, 0},
		"several":           {[]Problem{dead("c", "a"), dead("d", "a"), {Code: ServiceDown, Object: "s/web"}, {Code: LabelsInvalid, Object: "x"}}, Degraded, "2 hosts dead, 1 service down, 4 problems", true, 4, 0},
		"store and engines": {[]Problem{{Node: "a", Code: EngineUnreachable, Object: "x"}, {Node: "b", Code: EngineUnreachable, Object: "y"}, {Code: StoreUnreachable, Object: "etcd"}}, Degraded, "store unreachable, engine unreachable, 3 problems", true, 3, 0},
	} {
		h := HealthOf(test.problems)
		if h.State != test.state || h.Summary != test.summary || h.Severe != test.severe || h.Problems != test.problemN || h.Notices != test.noticeN {
			t.Errorf("%s: %+v", name, h)
		}
		for _, p := range h.DegradedBy {
			if p.Notice {
				t.Errorf("%s: it is degraded by a notice: %+v", name, p)
			}
		}
		if h.DegradedBy == nil {
			t.Errorf("%s: the list is null in JSON", name)
		}
	}
}
