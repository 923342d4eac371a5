package agent

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"shoal/api"
	"shoal/diagnose"
	"shoal/model"
)

// Each host tells of what its own agent found. The others are asked when somebody wants to
// know: nothing of it is in the store, and nobody pays for what nobody reads.
const (
	askProblemsAtOnce = 32
	askProblemsTime   = 3 * time.Second  // for a host to answer
	askProblemsAll    = 10 * time.Second // for all of them
)

// ownProblems are those that this host knows of: what its parts have reported, and what
// shows itself when it is looked for. The oldest is first.
func (a *Agent) ownProblems() []model.Problem {
	all := a.problems.List()
	now := time.Now()
	if s := a.catalog.Snapshot(); s != nil {
		all = append(all, diagnose.StateProblems(s, a.member.deadSince())...)
		all = append(all, diagnose.SettingsProblems(s.Nodes)...)
	} else {
		code := model.EngineUnreachable
		if a.catalog.Away() {
			code = model.StoreUnreachable
		}
		all = append(all, model.Problem{Code: code, Kind: "node", Object: a.config.Node, Since: a.started, Reason: errNoSnapshot.Error()})
	}
	all = append(all, a.watcher.Problems(now)...)
	all = append(all, certificateProblems(now, a.member.id.RenewalDue(), a.member.id.Expires(), a.member.id.CAExpires())...)
	for i := range all {
		all[i].Node = cmp.Or(all[i].Node, a.config.Node)
	}
	model.SortProblems(all)
	return all
}

// told are the problems that this host tells others of: its own, and what it sees of them.
func (a *Agent) told() []model.Problem {
	told := []model.Problem{}
	for _, p := range a.ownProblems() {
		if p.By == a.config.Node || p.By == "" && p.Node == a.config.Node {
			told = append(told, p)
		}
	}
	return told
}

// clusterProblems are those of all hosts, each asked for its own. A host that does not
// answer, or has another time, is one of them.
func (a *Agent) clusterProblems(ctx context.Context) []model.Problem {
	all := a.ownProblems()
	s := a.catalog.Snapshot()
	if s == nil {
		return all
	}
	answers := a.member.askProblems(ctx, s.Nodes)
	for _, answer := range answers {
		all = append(all, answer.Problems...)
	}
	all = append(all, silentProblems(a.config.Node, answers)...)
	all = append(all, clockProblems(a.config.Node, answers)...)
	all = uniqueProblems(all)
	model.SortProblems(all)
	return all
}

// uniqueProblems leaves one of each problem that several hosts tell of the same host.
func uniqueProblems(ps []model.Problem) []model.Problem {
	seen := map[model.Problem]bool{}
	unique := []model.Problem{}
	for _, p := range ps {
		k := p
		k.Since = time.Time{}
		if !seen[k] {
			seen[k] = true
			unique = append(unique, p)
		}
	}
	return unique
}

// problemsAnswer is what a host's agent answers another one.
type problemsAnswer struct {
	Time     time.Time       `json:"time"` // by its clock, when it answered
	Problems []model.Problem `json:"problems"`

	node string        // who was asked
	err  error         // why there is no answer
	sent time.Time     // by this host's clock
	took time.Duration // until the answer
}

// serveProblems tells another host what is wrong with this one.
func (m *membership) serveProblems(w http.ResponseWriter, _ *http.Request) {
	api.Reply(w, problemsAnswer{Time: time.Now().UTC(), Problems: m.told()}, nil)
}

// askProblems asks the other hosts that are alive, some at a time.
func (m *membership) askProblems(ctx context.Context, nodes []model.Node) []problemsAnswer {
	ctx, cancel := context.WithTimeout(ctx, askProblemsAll)
	defer cancel()
	var mu sync.Mutex
	var answers []problemsAnswer
	var all errgroup.Group
	all.SetLimit(askProblemsAtOnce)
	for _, n := range nodes {
		if n.Name == m.config.Node || !n.Alive {
			continue
		}
		all.Go(func() error {
			answer := m.askProblemsOf(ctx, n.Name, n.Addr)
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, answer)
			return nil
		})
	}
	_ = all.Wait() // what failed is in the answers
	return answers
}

func (m *membership) askProblemsOf(ctx context.Context, node string, addr netip.Addr) problemsAnswer {
	ctx, cancel := context.WithTimeout(ctx, askProblemsTime)
	defer cancel()
	a := problemsAnswer{node: node, sent: time.Now()}
	a.err = m.ask(ctx, http.MethodGet, addr, "/v1/problems", &a)
	a.took = time.Since(a.sent)
	return a
}

// silentProblems tell which agents did not answer. Those that refuse this host's
// certificate, which it still holds for good, say that it was removed.
func silentProblems(self string, answers []problemsAnswer) (ps []model.Problem) {
	refused := ""
	for _, a := range answers {
		switch {
		case a.err == nil:
		case refusesCertificate(a.err):
			refused = cmp.Or(refused, a.node)
		default:
			do := fmt.Sprintf("see on %s: systemctl status shoal, journalctl -u shoal", a.node)
			if wrong := (x509.CertificateInvalidError{}); errors.As(a.err, &wrong) {
				do = fmt.Sprintf("compare the clocks of %s and %s (date), and see the end of the certificate there: openssl x509 -noout -enddate -in /var/lib/shoal/cluster/node.crt", self, a.node)
			}
			ps = append(ps, model.Problem{Node: a.node, By: self, Code: model.AgentSilent, Kind: "node", Object: a.node, Since: a.sent,
				Reason: fmt.Sprintf("its agent does not answer, so that its problems are not known: %v; %s", a.err, do)})
		}
	}
	if refused != "" {
		ps = append(ps, model.Problem{Node: self, Code: model.HostRemoved, Kind: "node", Object: self, Since: time.Now(),
			Reason: "other hosts refuse its certificate: it was removed from the cluster (shoal node rm); " +
				"stop its agent, remove its state folder, and join again with a new token, or leave it out: shoal down"})
	}
	return ps
}

// refusesCertificate tells whether the other side does not take this host's certificate: it
// says so, on an open connection, or ends the handshake, where in TLS 1.3 it says no more than bad_certificate (RFC 8446
// section 6.2); for one that has ended it says certificate_expired.
func refusesCertificate(err error) bool {
	op := (*net.OpError)(nil)
	return errors.Is(err, errForbidden) || errors.As(err, &op) && op.Op == "remote error" && strings.Contains(op.Err.Error(), "bad certificate")
}

// deadSince is when other hosts were considered dead, of those that are.
func (m *membership) deadSince() map[string]time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	dead := map[string]time.Time{}
	if m.live != nil {
		for _, p := range m.live.States() {
			if !p.Alive {
				dead[p.Node] = p.Since
			}
		}
	}
	return dead
}

// engineProblems tell why the engine does not answer.
func engineProblems(engine string, err error) []model.Problem {
	if err == nil {
		return nil
	}
	return []model.Problem{{Code: model.EngineUnreachable, Kind: "engine", Object: engine,
		Reason: fmt.Sprintf("%v; what it last had goes on, and containers that start are not served until it answers: systemctl status docker, or name its socket with --docker-host", err)}}
}

// What is early enough to do something about a certificate that ends.
const (
	renewalLate = 24 * time.Hour       // since when it should have been renewed
	caLate      = 180 * 24 * time.Hour // before the CA's own ends
)

// certificateProblems judge when this host's certificate, and the CA's, end.
func certificateProblems(now, due, ends, caEnds time.Time) (ps []model.Problem) {
	add := func(object string, since time.Time, reason string) {
		ps = append(ps, model.Problem{Code: model.CertificateEnding, Kind: "certificate", Object: object, Since: since, Reason: reason})
	}
	if now.After(due.Add(renewalLate)) {
		add("of this host", due, fmt.Sprintf("it ends on %s, and could not be renewed since %s; when it has ended no host lets this one in: "+
			"see that a host which serves the store (shoal nodes) is reached from here on TCP 7947; the agent's log says why it failed", ends.Format(time.DateOnly), due.Format(time.DateOnly)))
	}
	if now.After(caEnds.Add(-caLate)) {
		add("of the cluster's CA", caEnds.Add(-caLate), fmt.Sprintf("it ends on %s, and all hosts' certificates with it; it is not renewed by itself: "+
			"have the hosts join a new cluster before", caEnds.Format(time.DateOnly)))
	}
	return ps
}
