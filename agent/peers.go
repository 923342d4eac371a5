package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"

	"shoal/api"
	"shoal/cluster"
	"shoal/diagnose"
	"shoal/lb"
)

// What agents ask of each other, over mutual TLS.

// What one agent waits for another's answer.
const (
	answerTime = 15 * time.Second
	// roleTime bounds a change of a host's role: etcd refuses the next change of
	// its members for some seconds after each, and a learner has to catch up.
	roleTime = 2 * time.Minute
)

func (m *membership) serveRole(w http.ResponseWriter, r *http.Request) {
	if err := cluster.TakeTime(w, roleTime+answerTime); err != nil {
		m.log.Warn("a change of role may end without an answer", "error", err)
	}
	m.log.Info("role is changed for another host", "by", cluster.PeerNode(r), "to", r.PathValue("role"))
	a, err := m.changeRole(r.Context(), r.PathValue("role"))
	api.Reply(w, a, err)
}

func (m *membership) serveHeld(w http.ResponseWriter, r *http.Request) {
	addr, err := netip.ParseAddr(r.PathValue("addr"))
	if err != nil {
		api.Reply(w, nil, err)
		return
	}
	h, err := m.tasks(addr)
	api.Reply(w, h, err)
}

// serveTrace tells this host's part of a trace. It reads, and does nothing else.
func (m *membership) serveTrace(w http.ResponseWriter, r *http.Request) {
	q, err := diagnose.ParseQuestion(r.URL.Query())
	if err != nil {
		api.Reply(w, nil, err)
		return
	}
	p, err := m.trace(r.Context(), q, true)
	api.Reply(w, p, err)
}

// serveSight tells what this host sees of a word. It reads, and does nothing else.
func (m *membership) serveSight(w http.ResponseWriter, r *http.Request) {
	s, err := m.see(r.Context(), r.FormValue("what"))
	api.Reply(w, s, err)
}

// sight is what another host sees of a word.
func (m *membership) sight(ctx context.Context, node netip.Addr, what string) (s diagnose.Sight, err error) {
	err = m.ask(ctx, http.MethodGet, node, "/v1/sight?what="+url.QueryEscape(what), &s)
	return s, err
}

// changeRole changes this host's own role. Once begun it goes on when who asked
// for it has left: half done it would have to be taken back, which takes as long.
func (m *membership) changeRole(ctx context.Context, role string) (a api.RoleAnswer, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), roleTime)
	defer cancel()
	switch role {
	case "server":
		a.Advice, err = m.promote(ctx)
	case "client":
		if err = m.mayDemote(); err == nil {
			a.Advice, err = m.demote(ctx)
		}
	default:
		err = fmt.Errorf("%w: role %q", api.ErrNotFound, role)
	}
	return a, err
}

// setRole changes the role of any host.
func (m *membership) setRole(ctx context.Context, node, role string) (a api.RoleAnswer, err error) {
	if node == m.config.Node {
		return m.changeRole(ctx, role)
	}
	addr, ok := m.peers()[node]
	if !ok {
		return a, fmt.Errorf("%w: no host is called %q, see shoal nodes", api.ErrNotFound, node)
	}
	ctx, cancel := context.WithTimeout(ctx, roleTime+answerTime)
	defer cancel()
	err = m.ask(ctx, http.MethodPost, addr, "/v1/role/"+role, &a)
	if isCutOff(err) {
		err = fmt.Errorf("host %s did not say what came of it, and may go on: see shoal nodes, and its agent's log: %w", node, err)
	}
	return a, err
}

// isCutOff tells whether another agent may have begun what it was asked for, though it did not answer.
func isCutOff(err error) bool {
	return slices.ContainsFunc([]error{context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET}, func(e error) bool { return errors.Is(err, e) })
}

// held is what a host's balancers still have to do with a task.
func (m *membership) held(ctx context.Context, node netip.Addr, task netip.Addr) (h lb.Held, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	err = m.ask(ctx, http.MethodGet, node, "/v1/held/"+task.String(), &h)
	return h, err
}

// part is another host's part of a trace.
func (m *membership) part(ctx context.Context, node netip.Addr, q diagnose.Question) (p diagnose.Part, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	err = m.ask(ctx, http.MethodGet, node, "/v1/trace?"+q.Encode(), &p)
	return p, err
}

// maxAnswer is the most that another agent may answer, in bytes.
const maxAnswer = 64 << 20

// errForbidden says that another host does not take this one for a host of the cluster.
var errForbidden = errors.New("this host is refused")

// ask asks another host's agent, for as long as ctx lasts.
func (m *membership) ask(ctx context.Context, method string, node netip.Addr, path string, into any) error {
	address := "https://" + netip.AddrPortFrom(node, cluster.DefaultPort).String() + path
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return err
	}
	resp, err := m.id.HTTPClient().Do(req)
	if err != nil {
		return fmt.Errorf("ask the agent of %s: %w", node, err)
	}
	defer resp.Body.Close()
	body := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode >= 400 {
		var e api.Failure
		if err := body.Decode(&e); err != nil || e.Error == "" {
			return fmt.Errorf("the agent of %s answered %s", node, resp.Status)
		}
		if resp.StatusCode == http.StatusForbidden {
			return fmt.Errorf("%w: %s", errForbidden, e.Error)
		}
		return errors.New(e.Error)
	}
	return body.Decode(into)
}
