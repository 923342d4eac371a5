package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// LivenessOptions say who asks whom.
type LivenessOptions struct {
	Node string
	Addr netip.Addr // listened on, and told to the others
	Port uint16     // of gossip, the same on all hosts; 0: [DefaultGossipPort]
	// Identity is this host's: its certificate for gossip's connections, and the key
	// that packets are encrypted with.
	Identity *Identity
	// Peers returns the other hosts of the cluster as the store last knew them,
	// by name; this one may be among them. It is called twice a second, and must
	// answer while the store is away.
	Peers func() map[string]netip.Addr
	// Generation is this host's, and HeardGeneration is given what another host, one of
	// Peers, says of its own. Both are called while a packet is handled, and must not
	// wait for anything. nil: this host takes no part in that.
	Generation      func() Generation
	HeardGeneration func(node string, is Generation)
	Log             *slog.Logger

	grace time.Duration // of tests, which are in more of a hurry; 0: restartGrace
}

// Liveness judges which hosts are alive, as seen from this one. Its methods
// may be called from any goroutine.
type Liveness struct {
	o       LivenessOptions
	ml      *memberlist.Memberlist
	changes chan struct{}
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu    sync.Mutex
	peers map[string]*peer
	met   map[string]netip.Addr // who is in gossip, by name -> where
	joins int                   // that are under way
	paced *rate.Limiter         // those of peers that are alive, or heard by UDP

	called      int // how many hosts were called silent since calledSince
	calledSince time.Time

	verdict chan struct{} // closed and made anew when a first verdict on a host was formed
}

// peer is a host that is being asked.
type peer struct {
	name  string
	hurry chan struct{} // of capacity 1: ask now
	stop  context.CancelFunc

	// With Liveness.mu:
	addr     netip.AddrPort
	detector failureDetector
	rtt      time.Duration
	joining  bool
	joined   time.Time // when joining was last tried
	called   time.Time // silent, by this host or by another one
}

// PeerState is the verdict on a host and what it rests on.
type PeerState struct {
	Node   string        `json:"node"`
	Addr   netip.Addr    `json:"addr"`         // as Peers has it; there it is asked
	Met    netip.Addr    `json:"met,omitzero"` // where gossip has it: another, if it moved and Peers does not know yet; zero: nowhere
	Alive  bool          `json:"alive"`
	Since  time.Time     `json:"since"`          // of Alive
	Heard  time.Time     `json:"heard,omitzero"` // its agent; zero: never
	RTT    time.Duration `json:"rtt,omitempty"`  // of the last question that its agent answered by UDP
	Reason string        `json:"reason"`         // a sentence
}

// StartLiveness opens the gossip port and begins to ask. It is to be started
// when this host's containers are known and told to the store: others take
// its answer as word that its tasks are what the store says.
func StartLiveness(o LivenessOptions) (*Liveness, error) {
	if o.Port == 0 {
		o.Port = DefaultGossipPort
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.grace = cmp.Or(o.grace, restartGrace)
	l := &Liveness{
		o:       o,
		changes: make(chan struct{}, 1),
		peers:   map[string]*peer{},
		met:     map[string]netip.Addr{},
		verdict: make(chan struct{}),
		paced:   newPace(),
	}
	var err error
	if l.ml, err = startGossip(o, &delegate{l}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.follow(ctx)
	l.done.Go(func() {
		tick := time.NewTicker(probeInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				l.follow(ctx)
			}
		}
	})
	return l, nil
}

// follow begins to ask hosts that are new and ends with those that are gone.
func (l *Liveness) follow(ctx context.Context) {
	want := l.o.Peers()
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, addr := range want {
		at := netip.AddrPortFrom(addr, l.o.Port)
		if name == l.o.Node || !addr.IsValid() {
			continue
		}
		if p := l.peers[name]; p != nil {
			p.addr = at
			continue
		}
		now := time.Now()
		p := &peer{name: name, addr: at, hurry: make(chan struct{}, 1), detector: newFailureDetector(now, l.o.grace)}
		peerCtx, stop := context.WithCancel(ctx)
		p.stop = stop
		l.peers[name] = p
		first := rand.N(min(time.Duration(len(want))*firstRounds/intervalPeers, mostFirst))
		l.done.Go(func() { l.watch(peerCtx, p, first) })
		l.signal()
	}
	for name, p := range l.peers {
		if _, ok := want[name]; !ok {
			p.stop()
			delete(l.peers, name)
			l.signal()
		}
	}
}

// signal tells of a change without waiting for anyone to take notice.
func (l *Liveness) signal() {
	select {
	case l.changes <- struct{}{}:
	default:
	}
}

// told takes in what gossip says of a node, and has it asked at once. It is
// called by memberlist, which holds its lock meanwhile: nothing here may call it
// back. Of a node that Peers does not name yet nothing has to be known.
func (l *Liveness) told(node string, f func(j *failureDetector, now time.Time)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.peers[node]
	if p == nil {
		return
	}
	l.change(p, f)
	p.askSoon()
}

// meets notes where gossip has a node, or that it is gone. The caller is
// memberlist, see told.
func (l *Liveness) meets(node string, at net.IP, there bool) {
	addr, ok := netip.AddrFromSlice(at)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.met, node)
	if ok && there {
		l.met[node] = addr.Unmap()
	}
}

// change lets the detector of a peer take something in, and tells of a new verdict.
// The caller holds l.mu.
func (l *Liveness) change(p *peer, f func(j *failureDetector, now time.Time)) {
	before := p.detector
	now := time.Now()
	f(&p.detector, now)
	if before.alive != p.detector.alive {
		say := l.o.Log.Warn
		if p.detector.alive {
			say = l.o.Log.Info
		}
		say("host "+verdictWord(p.detector.alive), "node", p.name, "addr", p.addr.Addr(),
			"after", now.Sub(before.since).Round(10*time.Millisecond), "why", p.detector.reason(now))
		l.signal()
	}
	if before.judged != p.detector.judged {
		close(l.verdict)
		l.verdict = make(chan struct{})
	}
}

func verdictWord(alive bool) string {
	if alive {
		return "is back"
	}
	return "is dead"
}

// watch asks one peer until ctx ends, first of all after a while.
func (l *Liveness) watch(ctx context.Context, p *peer, first time.Duration) {
	calmly := true
	select {
	case <-ctx.Done():
		return
	case <-time.After(first):
	}
	due := time.Now() // when the next round is planned
	for {
		start := time.Now()
		r, rtt := l.round(ctx, p, calmly)
		if ctx.Err() != nil {
			return
		}
		r.woke = start.Sub(due) > sleep || time.Since(start) > 2*probeTimeout+sleep
		l.mu.Lock()
		if rtt > 0 {
			p.rtt = rtt
		}
		l.change(p, func(j *failureDetector, now time.Time) { j.observe(r, now) })
		calmly = r.agent
		wait := probeInterval * time.Duration(max(intervalPeers, len(l.peers))) / intervalPeers
		if p.detector.hurried() {
			wait = suspectInterval - time.Since(start)
		}
		tell := l.callsSilent(p, time.Now())
		l.mu.Unlock()
		if tell {
			l.send(encode(silentMessage{1, l.o.Node, whySilent, p.name}), nil)
		}
		if r.agent || r.host {
			l.meet(ctx, p, r.agent)
		}
		due = time.Now().Add(wait)
		select {
		case <-ctx.Done():
			return
		case <-p.hurry:
			due = time.Now().Add(l.soon())
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(due)):
			}
		case <-time.After(wait):
		}
	}
}

// round asks the peer's agent over UDP and, where it does not answer, its
// host: both at once if the agent was silent before.
func (l *Liveness) round(ctx context.Context, p *peer, calmly bool) (r round, rtt time.Duration) {
	l.mu.Lock()
	addr := p.addr
	l.mu.Unlock()
	start := time.Now()
	planned := probeTimeout
	askKernel := func() string {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		return askHost(ctx, l.o.Addr, addr)
	}
	kernel := make(chan string, 1)
	if !calmly {
		go func() { kernel <- askKernel() }()
	}
	rtt, err := l.ml.Ping(p.name, net.UDPAddrFromAddrPort(addr))
	r.agent = err == nil
	switch {
	case r.agent:
		return r, max(rtt, 1)
	case calmly:
		planned += probeTimeout
		r.how = askKernel()
	default:
		r.how = <-kernel
	}
	r.host = r.how != ""
	r.stalled = time.Since(start) > planned+stall
	return r, 0
}

// A join tells each side of all that the other knows, and gossip tells of the
// others. A host that starts among a thousand would else make a connection to each
// of them, and so would all of them, if they start together.
const (
	maxJoins   = 8           // how many peers are joined at a time
	firstJoins = 3           // of peers that are alive or heard by UDP, after which there is
	joinPause  = time.Second // from one to the next
)

func newPace() *rate.Limiter { return rate.NewLimiter(rate.Every(joinPause), firstJoins) }

// meet joins the gossip of a peer that is dead or not in ours: memberlist
// forgets the dead, and both sides of a healed partition have to be told of
// each other. Where UDP is lost on the way, this is also how its agent is heard.
// Where a peer is heard by UDP, or alive, there is no hurry: it is alive after some
// rounds, and gossip tells of it sooner or later.
func (l *Liveness) meet(ctx context.Context, p *peer, heard bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, met := l.met[p.name]; met && p.detector.alive || p.joining || l.joins >= maxJoins || now.Sub(p.joined) < joinPause {
		return
	}
	if (heard || p.detector.alive) && !l.paced.AllowN(now, 1) {
		return
	}
	p.joining, p.joined = true, now
	l.joins++
	addr := p.addr
	l.done.Go(func() {
		_, err := l.ml.Join([]string{p.name + "/" + addr.String()})
		l.mu.Lock()
		defer l.mu.Unlock()
		p.joining = false
		l.joins--
		if err == nil && ctx.Err() == nil {
			l.change(p, func(j *failureDetector, now time.Time) { j.observe(round{agent: true, talked: true}, now) })
		}
	})
}

// Changes receives when a verdict changed; several changes may be
// told as one. There is one such channel.
func (l *Liveness) Changes() <-chan struct{} { return l.changes }

// States are the verdicts on all other hosts, by name.
func (l *Liveness) States() []PeerState {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	var all []PeerState
	for _, p := range l.peers {
		all = append(all, PeerState{
			Node: p.name, Addr: p.addr.Addr(), Met: l.met[p.name], Alive: p.detector.alive, Since: p.detector.since,
			Heard: p.detector.heard, RTT: p.rtt, Reason: p.detector.reason(now),
		})
	}
	slices.SortFunc(all, func(a, b PeerState) int { return strings.Compare(a.Node, b.Node) })
	return all
}

// Judged waits until every host was judged once, some 2 s at most. Before that
// a dead host counts as alive: what was true before a restart should stand.
func (l *Liveness) Judged(ctx context.Context) error {
	for {
		l.mu.Lock()
		open := slices.Collect(func(yield func(string) bool) {
			for name, p := range l.peers {
				if !p.detector.judged && !yield(name) {
					return
				}
			}
		})
		more := l.verdict
		l.mu.Unlock()
		if len(open) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("hosts not judged yet: %s: %w", strings.Join(open, ", "), ctx.Err())
		case <-more:
		}
	}
}

// Restart ends it for an agent that stops while its host goes on: the others
// are told, and keep its tasks for as long as the host answers, or 10 s where
// it never does. It takes 2 s at most.
func (l *Liveness) Restart() error {
	l.cancel()
	text := encodeGoodbye(l.o.Node)
	var all errgroup.Group
	all.SetLimit(64)
	for _, n := range l.ml.Members() {
		if n.Name != l.o.Node {
			all.Go(func() error { return l.ml.SendReliable(n, text) })
		}
	}
	// Whoever does not hear it looks for itself.
	if err := errors.Join(all.Wait(), l.ml.Leave(time.Second)); err != nil {
		l.o.Log.Info("not every host could be told goodbye", "error", err)
	}
	err := l.ml.Shutdown()
	l.done.Wait()
	return err
}
