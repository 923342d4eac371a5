package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"shoal/store"
)

// The hosts that serve the store are chosen by themselves, unless --servers is
// manual: three, where there are as many hosts. With three, one may be lost. One
// that is dead for --replace-server gives its vote to another host. Who acts is
// decided by each host alone, from what all know: so it is one, and another if that
// one cannot.

// The values of --servers.
const (
	serversAuto   = "auto"
	serversManual = "manual"
)

const (
	// wantServers is how many hosts serve the store.
	wantServers = 3
	// serversEvery is how often it is looked whether there are as many. It makes no
	// request.
	serversEvery = 5 * time.Second
	// serversRetry is how long a host that failed to serve leaves it to others.
	serversRetry = time.Minute
)

// candidate is a host, as far as it matters to who serves the store.
type candidate struct {
	name   string
	serves bool
	alive  bool
	since  time.Time // of alive; zero: always
}

// serverStep says what this host has to do for the store to be served as it should
// be: promote itself, or remove a host that is lost from the servers; neither:
// nothing.
func serverStep(self string, hosts []candidate, lostAfter time.Duration, now time.Time) (promote bool, remove string) {
	slices.SortFunc(hosts, func(a, b candidate) int { return strings.Compare(a.name, b.name) })
	var alive, servers, up int
	var spare, first, lost string
	for _, h := range hosts {
		if h.alive {
			alive++
		}
		switch {
		case h.serves && h.alive:
			servers++
			up++
			if first == "" {
				first = h.name
			}
		case h.serves:
			servers++
			if now.Sub(h.since) >= lostAfter && lost == "" {
				lost = h.name
			}
		case h.alive && spare == "":
			spare = h.name
		}
	}
	switch {
	case spare == "" || alive < wantServers:
		return false, "" // nobody to serve, or too few to need it
	case servers < wantServers:
		return spare == self, ""
	case lost != "" && first == self && 2*up > servers:
		return false, lost
	}
	return false, ""
}

// chooseServers keeps three hosts serving the store, as far as that is this host's
// to do, until ctx ends.
func (m *membership) chooseServers(ctx context.Context) {
	if m.config.Servers != serversAuto || m.external() {
		return
	}
	tick := time.NewTicker(serversEvery)
	defer tick.Stop()
	var notBefore time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if now.Before(notBefore) || !m.store.Connected() {
			continue
		}
		promote, remove := serverStep(m.config.Node, m.serverCandidates(), m.config.ReplaceServer, now)
		var err error
		switch {
		case promote && m.store.Role() == store.RoleClient:
			m.log.Info("this host serves the store from now on, as fewer than three do")
			err = m.serveToo(ctx)
		case remove != "":
			m.log.Warn("a host that serves the store is lost; another takes its place", "host", remove, "after", m.config.ReplaceServer)
			err = m.store.RemoveServer(ctx, remove, netip.Addr{}) // it was listed, so its name is known
		}
		if err != nil && ctx.Err() == nil {
			m.log.Warn("the hosts that serve the store are not as they should be", "error", err, "again", serversRetry)
			notBefore = now.Add(serversRetry)
		}
	}
}

// endPromotion ends what a restart, or a host that did not answer, broke off when this one was made a server of the
// store: it gets its vote, and the CA's key. It goes on until ctx ends.
func (m *membership) endPromotion(ctx context.Context) {
	tick := time.NewTicker(serversEvery)
	defer tick.Stop()
	var notBefore time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if m.store.Role() != store.RoleServer || !m.store.Promoting() && m.id.HoldsCA() || !m.store.Connected() || now.Before(notBefore) {
				continue
			}
		}
		bounded, cancel := context.WithTimeout(ctx, roleTime)
		err := m.store.EndPromotion(bounded)
		if err == nil && m.store.Role() == store.RoleServer {
			err = m.holdCA(bounded)
		}
		cancel()
		if err != nil && ctx.Err() == nil {
			m.log.Warn("this host's promotion, which was broken off, is not done yet", "error", err, "again", serversRetry)
			notBefore = time.Now().Add(serversRetry)
		}
	}
}

func (m *membership) serveToo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, roleTime)
	defer cancel()
	_, err := m.promote(ctx)
	return err
}

// serverCandidates are all hosts that could serve the store, this one among them.
func (m *membership) serverCandidates() (all []candidate) {
	serving := m.store.Servers()
	m.mu.Lock()
	live := m.live
	m.mu.Unlock()
	all = append(all, candidate{name: m.config.Node, serves: slices.Contains(serving, m.config.Node), alive: true})
	if live == nil {
		return all
	}
	for _, p := range live.States() {
		all = append(all, candidate{name: p.Node, serves: slices.Contains(serving, p.Node), alive: p.Alive, since: p.Since})
	}
	return all
}

var errServersAuto = errors.New("three hosts serve the store by themselves, and it would be promoted again: to choose by hand, start all agents with --servers manual")

// mayDemote reports that a demotion would be undone.
func (m *membership) mayDemote() error {
	if m.config.Servers != serversAuto {
		return nil
	}
	all := m.serverCandidates()
	serving, alive := 0, 0
	for _, c := range all {
		if c.serves {
			serving++
		}
		if c.alive {
			alive++
		}
	}
	if serving <= wantServers && alive >= wantServers {
		return errServersAuto
	}
	return nil
}

// checkServers reports a bad --servers or --replace-server.
func checkServers(c *Config) error {
	var bad []error
	if c.Servers != serversAuto && c.Servers != serversManual {
		bad = append(bad, badSetting("--servers %q: use auto, for three hosts to serve the store by themselves, or manual", c.Servers))
	}
	if c.ReplaceServer < time.Second {
		bad = append(bad, badSetting("--replace-server %s: use a second or more", c.ReplaceServer))
	}
	return errors.Join(bad...)
}
