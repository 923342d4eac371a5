package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"shoal/api"
	"shoal/catalog"
	"shoal/cluster"
	"shoal/diagnose"
	"shoal/lb"
	"shoal/model"
	"shoal/store"
	"shoal/traffic"
)

// membership is this host's part in the cluster. A lone host has an identity;
// it listens for hosts that join while there is a token to join by, and to
// nothing else. The first that joins has it open the store, and all other ports.
type membership struct {
	config  Config
	log     *slog.Logger
	store   *store.Store
	catalog *catalog.Catalog
	id      *cluster.Identity
	reg     *cluster.Registry
	server  *cluster.Server
	tasks   func(netip.Addr) (lb.Held, error)                                                 // what this host still has to do with a task; set before start
	see     func(ctx context.Context, what string) (diagnose.Sight, error)                    // what this host sees of a word; likewise
	trace   func(ctx context.Context, q diagnose.Question, asked bool) (diagnose.Part, error) // this host's part of one; likewise

	told    func() []model.Problem        // what this host tells others of; likewise
	counted func() (traffic.Count, error) // the traffic that this host has counted; likewise

	report    func(part string, ps []model.Problem) // likewise
	following chan *followError                     // of capacity 1: to end the run by

	ways func() map[string]string // the transports by which other hosts are reached; likewise

	doors  *doors
	judged chan struct{} // closed once the other hosts' lives are known
	once   sync.Once     // closes it

	// door is held by what opens or closes the port that hosts join by, from the
	// look at the tokens that it goes by on: a lone host's is not closed on a
	// token that was made meanwhile, nor on the first host that comes.
	door sync.Mutex

	telling sync.Mutex // held by tell

	mu   sync.Mutex
	live *cluster.Liveness
	run  context.Context // set while the agent runs
	work *errgroup.Group
}

func newMembership(c Config, id *cluster.Identity, s *store.Store, cat *catalog.Catalog, log *slog.Logger) *membership {
	m := &membership{config: c, log: log, store: s, catalog: cat, id: id, doors: newDoors(), judged: make(chan struct{}), following: make(chan *followError, 1)}
	m.reg = cluster.NewRegistry(cat.KV())
	m.server = cluster.NewServer(cluster.ServerOptions{
		Identity: id, Registry: m.reg,
		Cluster: func(ctx context.Context, _ string) (json.RawMessage, error) {
			if !s.Connected() { // who asks has others to ask, and need not wait
				return nil, model.ErrAway
			}
			members, err := s.Members(ctx)
			if err != nil {
				return nil, err
			}
			var w welcome
			for _, member := range members {
				if member.Voter && member.Endpoint != "" {
					w.Endpoints = append(w.Endpoints, member.Endpoint)
				}
			}
			return json.Marshal(w)
		},
		Open:      m.receive,
		MayHoldCA: s.HasVote,
		Seen:      func(a netip.Addr) { m.doors.greet(a, time.Now()) },
		IsMember:  m.isMember,
	})
	m.server.Handle("GET /v1/hello", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	m.server.Handle("POST /v1/role/{role}", http.HandlerFunc(m.serveRole))
	m.server.Handle("GET /v1/held/{addr}", http.HandlerFunc(m.serveHeld))
	m.server.Handle("GET /v1/trace", http.HandlerFunc(m.serveTrace))
	m.server.Handle("GET /v1/problems", http.HandlerFunc(m.serveProblems))
	m.server.Handle("GET /v1/sight", http.HandlerFunc(m.serveSight))
	m.server.Handle("GET /v1/traffic", http.HandlerFunc(m.serveTraffic))
	m.server.Handle("GET /v1/containers", http.HandlerFunc(m.serveList))
	m.server.Handle("POST /v1/recovered", cluster.ServeRecovered(m.follow))
	return m
}

// start takes this host's part in the cluster up for as long as ctx lasts. A
// lone host's is nothing yet.
func (m *membership) start(ctx context.Context, g *errgroup.Group) error {
	m.run, m.work = ctx, g
	if m.external() {
		g.Go(func() error { m.id.ShareCA(ctx, m.reg); return nil })
	} else {
		g.Go(func() error { m.id.KeepEnrolled(ctx, m.reg); return nil })
	}
	g.Go(func() error { m.id.KeepFresh(ctx, m.reg, m.servers); return nil })
	g.Go(func() error { m.id.WatchRemoved(ctx, m.reg); return nil })
	g.Go(func() error { m.followMembers(ctx); return nil })
	g.Go(func() error { m.chooseServers(ctx); return nil })
	g.Go(func() error { m.endPromotion(ctx); return nil })
	g.Go(func() error { m.leadBack(ctx); return nil })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case e := <-m.following:
			return e
		}
	})
	if m.store.Role() == store.RoleAlone {
		m.setJudged()
		g.Go(func() error { m.await(ctx); return nil })
		return nil
	}
	g.Go(func() error { m.rediscoverStore(ctx); return nil })
	return m.open()
}

// receive opens a lone host to the others, since the first has come. Once is
// enough.
func (m *membership) receive(ctx context.Context) error {
	m.door.Lock()
	defer m.door.Unlock()
	if m.store.Role() == store.RoleAlone {
		if err := m.store.Serve(ctx); err != nil {
			return err
		}
	}
	return m.open()
}

// await has a lone host listen for others that join while there is a token that
// they could join by, until one has.
func (m *membership) await(ctx context.Context) {
	changed := m.reg.WatchTokens(ctx)
	for m.store.Role() == store.RoleAlone {
		again := time.After(m.updateJoinPort(ctx))
		select {
		case <-again:
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// updateJoinPort opens or closes a lone host's port as its tokens say, and tells when to
// look again if none of them changes.
func (m *membership) updateJoinPort(ctx context.Context) (again time.Duration) {
	m.door.Lock()
	defer m.door.Unlock()
	last, err := m.lastToken(ctx)
	if err != nil || m.store.Role() != store.RoleAlone {
		return time.Second
	}
	if again = time.Until(last); again > 0 {
		err = m.server.Start()
	} else {
		again, err = time.Hour, m.server.Close()
	}
	if err != nil {
		m.log.Warn("other hosts cannot join", "error", err)
		again = time.Minute
	}
	return again
}

// lastToken is when the last token expires that can still be used; in the past
// if there is none.
func (m *membership) lastToken(ctx context.Context) (last time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tokens, err := m.reg.Tokens(ctx)
	for _, t := range tokens {
		if t.Uses > 0 && t.Expires.After(last) {
			last = t.Expires
		}
	}
	return last, err
}

// setJudged says that as much is known of the other hosts' lives as there is to know.
func (m *membership) setJudged() { m.once.Do(func() { close(m.judged) }) }

// open starts what listens to other hosts and what asks them. Once is enough.
func (m *membership) open() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.server.Start(); err != nil {
		return err
	}
	if m.work == nil || m.live != nil {
		return nil
	}
	lists := newLists(m.run, m)
	live, err := cluster.StartLiveness(cluster.LivenessOptions{
		Node: m.config.Node, Addr: m.config.Advertise, Identity: m.id, Peers: m.peers, Log: m.log,
		Generation: m.generation, HeardGeneration: lists.hear,
	})
	if err != nil {
		return err
	}
	m.live = live
	m.work.Go(func() error { m.watchLives(m.run, live, lists); return nil })
	m.work.Go(func() error { lists.follow(live); return nil })
	m.work.Go(func() error { m.greetOthers(m.run, live); return nil })
	m.doors.signal() // this host has more ports now
	return nil
}

// watchLives tells the store and the catalog which hosts live.
func (m *membership) watchLives(ctx context.Context, live *cluster.Liveness, lists *lists) {
	go func() {
		bounded, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		judged := live.Judged(bounded) == nil // after three seconds what is known must do
		m.tell(live, lists)
		m.setJudged()
		if judged && !m.storeIsUp(live) {
			m.catalog.StoreLost()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-live.Changes():
			if !ok {
				return
			}
			m.tell(live, lists)
		case <-lists.returns:
			m.tell(live, lists)
		}
	}
}

// storeIsUp tells whether enough of the hosts that serve the store live.
func (m *membership) storeIsUp(live *cluster.Liveness) bool {
	dead := map[netip.Addr]bool{}
	for _, p := range live.States() {
		dead[p.Addr] = !p.Alive
	}
	return m.store.Answerable(func(a netip.Addr) bool { return !dead[a] })
}

// tell does so by what is known now. Two may call it at a time: the later one tells what is
// newer.
func (m *membership) tell(live *cluster.Liveness, lists *lists) {
	m.telling.Lock()
	defer m.telling.Unlock()
	alive := map[string]bool{}
	for _, p := range live.States() {
		alive[p.Node] = p.Alive
	}
	m.store.SetAlive(alive) // its etcd serves whatever its tasks are
	if ask := lists.admit(alive); len(ask) > 0 {
		live.AskGenerations(ask)
	}
	m.catalog.SetAlive(alive)
}

// A client that has no store looks for it so often.
const (
	firstRediscovery = time.Second
	lastRediscovery  = 10 * time.Second
)

// rediscoverStore finds the store on a client again whose servers have moved, all of them:
// where they are now the store would tell, and it is there.
func (m *membership) rediscoverStore(ctx context.Context) {
	for pause := firstRediscovery; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		hosts := m.candidates()
		if len(hosts) == 0 || m.store.Role() != store.RoleClient {
			pause = firstRediscovery
			continue
		}
		pause = min(2*pause, lastRediscovery)
		endpoints, err := askForStore(ctx, m.id, hosts)
		if err == nil {
			err = m.store.Found(endpoints)
		}
		if err != nil {
			m.log.Debug("nobody tells yet where the store is", "hosts", hosts, "error", err)
			continue
		}
		m.log.Info("another host tells where the store is", "endpoints", endpoints)
	}
}

// candidates are the hosts that may know more of the store than this one: those
// that gossip has at another address than the store had, and, without a store,
// those of --join. A host that moved knows where others are, and so meets them
// in gossip by itself. What is said there is not trusted: whoever is at that
// address has to show a certificate for it.
func (m *membership) candidates() (hosts []netip.AddrPort) {
	m.mu.Lock()
	live := m.live
	m.mu.Unlock()
	if live != nil {
		for _, p := range live.States() {
			if p.Met.IsValid() && p.Met != p.Addr {
				hosts = append(hosts, netip.AddrPortFrom(p.Met, cluster.DefaultPort))
			}
		}
	}
	if !m.store.Connected() {
		named, _ := m.config.joinHosts() // checked at the start
		hosts = append(hosts, named...)
	}
	return hosts
}

// peers are the other hosts' addresses, as the catalog knows them.
func (m *membership) peers() map[string]netip.Addr { return m.catalog.Peers() }

// servers are the hosts that may hold the CA's key: any host tells who does.
func (m *membership) servers() []netip.AddrPort {
	var all []netip.AddrPort
	for _, a := range m.peers() {
		all = append(all, netip.AddrPortFrom(a, cluster.DefaultPort))
	}
	return all
}

// stop says goodbye, so that a restart is not taken for a death.
func (m *membership) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live != nil {
		if err := m.live.Restart(); err != nil {
			m.log.Debug("say goodbye", "error", err)
		}
	}
	m.server.Close()
}

// createToken makes a join token, and listens for who uses it.
func (m *membership) createToken(ctx context.Context, ttl time.Duration, uses int) (*api.Token, error) {
	if m.external() {
		return nil, errors.New("hosts join this cluster by its etcd, without a token: start the agent there with the --etcd settings that it has here")
	}
	if !m.id.HoldsCA() {
		return nil, fmt.Errorf("this host cannot admit others: make the token on one that serves the store (shoal nodes), or run shoal server promote %s first", m.config.Node)
	}
	if err := m.reg.Enrol(ctx, m.id); err != nil {
		return nil, err
	}
	m.door.Lock()
	defer m.door.Unlock()
	token, err := m.reg.CreateToken(ctx, m.id, ttl, uses)
	if err != nil {
		return nil, err
	}
	if err := m.server.Start(); err != nil { // at once
		// Nobody was told of it. That it goes does not depend on who waits.
		return nil, errors.Join(err, m.reg.RemoveToken(context.WithoutCancel(ctx), cluster.TokenID(token)))
	}
	return &api.Token{Token: token, TTL: api.Duration(ttl), Uses: uses,
		Command: fmt.Sprintf("sudo shoal agent --join %s --token %s", m.config.Advertise, token)}, nil
}

// removeToken revokes a join token.
func (m *membership) removeToken(ctx context.Context, ref string) error {
	return asNotFound(m.reg.RemoveToken(ctx, ref), cluster.ErrNoToken)
}

// tokens are the join tokens that were made and not removed.
func (m *membership) tokens(ctx context.Context) ([]api.TokenInfo, error) {
	tokens, err := m.reg.Tokens(ctx)
	var infos []api.TokenInfo
	for _, t := range tokens {
		infos = append(infos, api.TokenInfo(t))
	}
	return infos, err
}
