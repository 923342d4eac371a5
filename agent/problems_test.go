package agent

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"shoal/model"
)

// told are problems as "code object on node by host".
func told(ps []model.Problem) string {
	var all []string
	for _, p := range ps {
		all = append(all, fmt.Sprintf("%s %s on %s by %s", p.Code, p.Object, p.Node, p.By))
	}
	return strings.Join(all, ", ")
}

func TestAHostThatDoesNotAnswerIsAProblem(t *testing.T) {
	refused := fmt.Errorf("ask: %w", &net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")})
	ended := &net.OpError{Op: "remote error", Err: errors.New("tls: expired certificate")}
	for name, test := range map[string]struct {
		err  error
		want string
		says string
	}{
		"it answers":        {nil, "", ""},
		"nobody is there":   {errors.New("connection refused"), "agent-silent b on b by a", "connection refused; see on b: systemctl status shoal"},
		"clocks differ":     {x509.CertificateInvalidError{Reason: x509.Expired}, "agent-silent b on b by a", "compare the clocks of a and b"},
		"it was removed":    {refused, "host-removed a on a by ", "join again with a new token"},
		"it is told so":     {fmt.Errorf("%w: node a was removed", errForbidden), "host-removed a on a by ", "shoal node rm"},
		"its time is over":  {ended, "agent-silent b on b by a", "expired certificate"},
		"it took too long":  {fmt.Errorf("deadline exceeded"), "agent-silent b on b by a", "deadline exceeded"},
		"of an old version": {errors.New("answered 404 Not Found"), "agent-silent b on b by a", "404"},
	} {
		ps := silentProblems("a", []problemsAnswer{{node: "b", err: test.err}})
		if got := told(ps); got != test.want || got != "" && !strings.Contains(ps[0].Reason, test.says) {
			t.Errorf("%s: %s: %+v", name, got, ps)
		}
	}
}

func TestWhoseClockDiffersFromMostIsAProblem(t *testing.T) {
	now := time.Now()
	answer := func(node string, ahead, took time.Duration) problemsAnswer {
		return problemsAnswer{node: node, sent: now, took: took, Time: now.Add(took/2 + ahead)}
	}
	for name, test := range map[string]struct {
		answers []problemsAnswer
		want    string
		says    string
	}{
		"alone":              {nil, "", ""},
		"all are right":      {[]problemsAnswer{answer("b", time.Second, 0), answer("c", -4*time.Second, 0)}, "", ""},
		"one is ahead":       {[]problemsAnswer{answer("b", 90*time.Second, 0), answer("c", 0, 0)}, "clock-skew b on b by ", "1m30s ahead of most hosts' clocks"},
		"this one is ahead":  {[]problemsAnswer{answer("b", -time.Minute, 0), answer("c", -time.Minute, 0)}, "clock-skew a on a by ", "1m0s ahead of"},
		"of two":             {[]problemsAnswer{answer("b", -time.Minute, 0)}, "clock-skew b on b by ", "1m0s behind that of a"},
		"a slow answer":      {[]problemsAnswer{answer("b", 6*time.Second, 3*time.Second), answer("c", 0, 0)}, "", ""},
		"one does not tell":  {[]problemsAnswer{{node: "b", sent: now}, answer("c", 0, 0)}, "", ""},
		"one did not answer": {[]problemsAnswer{{node: "b", sent: now, err: errors.New("no"), Time: now.Add(time.Hour)}}, "", ""},
	} {
		ps := clockProblems("a", test.answers)
		if got := told(ps); got != test.want || got != "" && !strings.Contains(ps[0].Reason, test.says) {
			t.Errorf("%s: %s: %+v", name, got, ps)
		}
	}
}

func TestCertificatesThatEndAreAProblem(t *testing.T) {
	now := time.Date(2024, 6, 1, 12, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	for name, test := range map[string]struct {
		due, ends, ca time.Duration // from now
		want          string
		says          string
	}{
		"new":           {60 * day, 90 * day, 3650 * day, "", ""},
		"just due":      {-time.Hour, 30 * day, 3650 * day, "", ""},
		"not renewed":   {-2 * day, 28 * day, 3650 * day, "certificate-ending of this host on  by ", "ends on 2024-06-29, and could not be renewed since 2024-05-30"},
		"the CA's ends": {60 * day, 90 * day, 179 * day, "certificate-ending of the cluster's CA on  by ", "ends on 2024-11-27"},
	} {
		ps := certificateProblems(now, now.Add(test.due), now.Add(test.ends), now.Add(test.ca))
		if got := told(ps); got != test.want || got != "" && !strings.Contains(ps[0].Reason, test.says) {
			t.Errorf("%s: %s: %+v", name, got, ps)
		}
	}
}

func TestAnEngineThatDoesNotAnswerIsAProblem(t *testing.T) {
	if ps := engineProblems("unix:///run/docker.sock", nil); len(ps) > 0 {
		t.Errorf("%+v", ps)
	}
	ps := engineProblems("unix:///run/docker.sock", errors.New("no such file"))
	if told(ps) != "engine-unreachable unix:///run/docker.sock on  by " || !strings.Contains(ps[0].Reason, "no such file; ") || !strings.Contains(ps[0].Reason, "systemctl status docker") {
		t.Errorf("%+v", ps)
	}
}

func TestAProblemThatTwoHostsTellOfIsListedOnce(t *testing.T) {
	p := model.Problem{Node: "b", Code: model.TaskPaused, Kind: "container", Object: "web", Reason: "paused", Since: time.Unix(1, 0)}
	later, other := p, p
	later.Since, other.Node = time.Unix(2, 0), "c"
	if ps := uniqueProblems([]model.Problem{p, later, other}); told(ps) != "task-paused web on b by , task-paused web on c by " {
		t.Errorf("%s", told(ps))
	}
}

// TestHostsTellEachOtherOfTheirProblems: over the agents' own port, and of themselves alone.
func TestHostsTellEachOtherOfTheirProblems(t *testing.T) {
	a, b := newMember(t, 41), newMember(t, 42)
	a.start()
	a.invite(b)
	b.start()
	a.knows(b)
	b.m.told = func() []model.Problem {
		return []model.Problem{{Node: b.c.Node, Code: model.ConntrackFull, Kind: "kernel", Object: "connection tracking", Reason: "full"}}
	}
	nodes := a.catalog.Snapshot().Nodes
	answers := a.m.askProblems(t.Context(), nodes)
	if len(answers) != 1 || answers[0].err != nil || told(answers[0].Problems) != "conntrack-nearly-full connection tracking on m42 by " {
		t.Fatalf("%+v", answers)
	}
	if ps := clockProblems(a.c.Node, answers); len(ps) > 0 {
		t.Errorf("two hosts with one clock: %+v", ps)
	}
	b.stop()
	if ps := silentProblems(a.c.Node, a.m.askProblems(t.Context(), nodes)); told(ps) != "agent-silent m42 on m42 by m41" {
		t.Errorf("a host whose agent is stopped: %+v", ps)
	}

	// One that was removed is refused, and learns why.
	if err := a.m.reg.Remove(t.Context(), b.c.Node); err != nil {
		t.Fatal(err)
	}
	b.eventually("it learns that it was removed", func() bool {
		return told(silentProblems(b.c.Node, b.m.askProblems(t.Context(), nodes[:1]))) == "host-removed m42 on m42 by "
	})
}

func TestAHostWhoseSettingsDifferIsNotLetIn(t *testing.T) {
	a, b := newMember(t, 43), newMember(t, 44)
	a.c.Zone, b.c.Zone = "mesh.internal", "other.internal"
	a.c.VIPRest, b.c.VIPRest = 10*time.Minute, time.Minute
	a.c.Servers, b.c.Servers = serversManual, serversAuto
	a.start()
	a.invite(b)
	err := b.tryStart()
	for _, says := range []string{
		"--zone is mesh.internal on m43, and other.internal on m44", "--vip-rest is 10m0s on m43, and 1m0s on m44", "--servers is manual on m43, and auto on m44",
	} {
		if wrong := (*ConfigError)(nil); !errors.As(err, &wrong) || !strings.Contains(err.Error(), says) {
			t.Fatalf("%v, want %s", err, says)
		}
	}
	b.stop()
	b.c.Zone, b.c.VIPRest, b.c.Servers = a.c.Zone, a.c.VIPRest, a.c.Servers // by the same token: it was not used
	b.start()
	b.knows(a)
}
