package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"shoal/store"
)

// Hosts of these tests are network namespaces on a bridge, that is in a
// namespace too. The agent of each is this test binary, run in its namespace.

const memberEnv = "SHOAL_TEST_MEMBER"

type memberConfig struct {
	Node  string
	Dir   string // of its identity
	Peers map[string]netip.Addr
	Grace time.Duration // see restartGrace
}

func TestMain(m *testing.M) {
	if store.IsChild() {
		os.Exit(store.RunChild(nil))
	}
	if c := os.Getenv(memberEnv); c != "" {
		if err := runMember(c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// Hosts mostly wait: more of them than cores can.
	flag.Parse()
	flag.Set("test.parallel", "16")
	go machine.measure()
	os.Exit(m.Run())
}

// runMember asks the other hosts until SIGTERM (restart) or the end of its input.
// It prints "alive NODE" and "dead NODE" as verdicts change, "ready" when all
// others were heard, and its states when it is asked, by any line.
func runMember(config string) error {
	var c memberConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	id, err := Load(Host{Dir: c.Dir, Node: c.Node, Addr: c.Peers[c.Node]})
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	l, err := StartLiveness(LivenessOptions{
		Node: c.Node, Addr: c.Peers[c.Node], Identity: id,
		Peers: func() map[string]netip.Addr { return c.Peers },
		Log:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})),
		grace: c.Grace,
	})
	if err != nil {
		return err
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- in.Text()
		}
	}()
	judged := make(chan error, 1)
	go func() { judged <- l.Judged(context.Background()) }()
	alive := map[string]bool{}
	for {
		select {
		case <-l.Changes():
		case <-judged:
			fmt.Println("judged")
		case <-signals:
			return l.Restart()
		case question, ok := <-lines:
			if !ok {
				return nil
			}
			fmt.Printf("states %s\n", encode(answer{question, l.States()}))
		}
		for _, s := range l.States() {
			if was, known := alive[s.Node]; s.Alive != was || !known {
				fmt.Println(map[bool]string{true: "alive", false: "dead"}[s.Alive], s.Node)
				alive[s.Node] = s.Alive
			}
		}
	}
}

// answer is what an agent is asked for, by which question.
type answer struct {
	Question string
	States   []PeerState
}

type lan struct {
	t     *testing.T
	hub   string
	dirs  map[string]string // of identities, by name
	peers map[string]netip.Addr
	grace time.Duration // of agents that are started from now on
	hosts map[string]*host
}

type host struct {
	lan      *lan
	name, ns string
	cmd      *exec.Cmd
	stdin    io.Closer
	ask      io.Writer
	events   chan event // alive and dead
	answers  chan answer
	asked    int
	judged   chan struct{}
}

type event struct {
	at    time.Time
	node  string
	alive bool
}

var lans atomic.Int32

// newLAN makes hosts named a, b, c, …, with an agent on each, and returns when
// all have heard from all.
func newLAN(t *testing.T, n int, change ...func(*lan)) *lan {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root: run the tests with sudo")
	}
	t.Parallel()
	prefix := fmt.Sprintf("shl%d-%d-", os.Getpid(), lans.Add(1))
	l := &lan{t: t, hub: prefix + "hub", dirs: map[string]string{}, peers: map[string]netip.Addr{}, grace: restartGrace, hosts: map[string]*host{}}
	for _, f := range change {
		f(l)
	}
	l.netns(l.hub)
	l.ip("-n", l.hub, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	l.ip("-n", l.hub, "link", "set", "br0", "up")
	for i := range n {
		h := &host{lan: l, name: string(rune('a' + i))}
		h.ns = prefix + h.name
		addr := fmt.Sprintf("10.77.0.%d", i+1)
		l.hosts[h.name], l.peers[h.name] = h, netip.MustParseAddr(addr)
		l.netns(h.ns)
		l.ip("-n", h.ns, "link", "add", "eth0", "type", "veth", "peer", "name", "to-"+h.name, "netns", l.hub)
		l.ip("-n", l.hub, "link", "set", "to-"+h.name, "master", "br0", "up")
		l.ip("-n", h.ns, "addr", "add", addr+"/24", "dev", "eth0")
		l.ip("-n", h.ns, "link", "set", "eth0", "up")
		l.ip("-n", h.ns, "link", "set", "lo", "up")
	}
	l.dirs = identities(t, l.peers)
	for _, h := range l.hosts {
		h.start()
	}
	for _, h := range l.hosts {
		h.waitState("to hear from all", 15*time.Second, func(all []PeerState) bool {
			heard := 0
			for _, s := range all {
				if !s.Heard.IsZero() {
					heard++
				}
			}
			return heard == n-1
		})
		h.wipe()
	}
	return l
}

// identities makes those of the hosts of one cluster, and returns their folders.
func identities(t *testing.T, hosts map[string]netip.Addr) map[string]string {
	t.Helper()
	dirs := map[string]string{}
	var ca *authority
	var gossip []byte
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		dirs[name] = t.TempDir()
		if ca == nil {
			first, err := Create(Host{Dir: dirs[name], Node: name, Addr: hosts[name]})
			if err != nil {
				t.Fatal(err)
			}
			ca, gossip = first.authority(), first.GossipKey()
			continue
		}
		key, err := newKey()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ca.issue(name, hosts[name], &key.PublicKey, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := saveIdentity(dirs[name], ca.cert, cert, key, gossip); err != nil {
			t.Fatal(err)
		}
	}
	return dirs
}

func (l *lan) netns(name string) {
	l.t.Helper()
	l.ip("netns", "add", name)
	l.t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
}

func (l *lan) ip(args ...string) { l.t.Helper(); l.run("ip", args...) }

func (l *lan) run(name string, args ...string) {
	l.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// iptables changes the rules of a host.
func (h *host) iptables(args ...string) {
	h.lan.t.Helper()
	h.lan.run("ip", append([]string{"netns", "exec", h.ns, "iptables", "-w"}, args...)...)
}

// cable pulls the host's cable, or plugs it in.
func (h *host) cable(state string) {
	h.lan.t.Helper()
	h.lan.ip("-n", h.lan.hub, "link", "set", "to-"+h.name, state)
}

// start starts the host's agent.
func (h *host) start() {
	t := h.lan.t
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", h.ns, exe)
	cmd.Env = append(os.Environ(), memberEnv+"="+string(encode(memberConfig{h.name, h.lan.dirs[h.name], h.lan.peers, h.lan.grace})))
	var stderr logBuffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.cmd, h.ask = cmd, in
	h.events, h.answers, h.judged = make(chan event, 1000), make(chan answer, 100), make(chan struct{}, 1)
	events, answers, judged := h.events, h.answers, h.judged
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			word, rest, _ := strings.Cut(lines.Text(), " ")
			switch word {
			case "alive", "dead":
				events <- event{time.Now(), rest, word == "alive"}
			case "judged":
				judged <- struct{}{}
			case "states":
				var a answer
				json.Unmarshal([]byte(rest), &a)
				answers <- a
			}
		}
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGCONT)
		in.Close()
		<-ended
		if t.Failed() {
			t.Logf("agent %s:\n%s", h.name, stderr.String())
		}
	})
}

// end ends the agent by a signal and waits until it is gone.
func (h *host) end(s os.Signal) {
	h.lan.t.Helper()
	h.cmd.Process.Signal(s)
	eventually(h.lan.t, 10*time.Second, func() bool { return h.cmd.Process.Signal(syscall.Signal(0)) != nil },
		func() string { return "agent " + h.name + " still runs" })
}

// wipe drops the events so far.
func (h *host) wipe() {
	for len(h.events) > 0 {
		<-h.events
	}
}

// waitFor waits for one verdict of the host's agent; no other may come before.
// It has to come within that time after since, or, on a busy machine, by as
// much later as that is late. It returns when it came.
func (h *host) waitFor(node string, alive bool, since time.Time, within time.Duration) time.Duration {
	h.lan.t.Helper()
	select {
	case e := <-h.events:
		took := e.at.Sub(since)
		if e.node != node || e.alive != alive {
			h.lan.t.Fatalf("%s: %s alive: %t after %s; want %s alive: %t", h.name, e.node, e.alive, took, node, alive)
		}
		if most := within + machine.since(since); took > most {
			h.lan.t.Errorf("%s: %s alive: %t after %s, want %s at most", h.name, node, alive, took, most)
		}
		return took
	case <-time.After(within + 15*time.Second - time.Since(since)):
		h.lan.t.Fatalf("%s: no news of %s", h.name, node)
	}
	return 0
}

// quiet fails if one of the hosts' agents changes a verdict within d.
func (l *lan) quiet(d time.Duration, hosts ...string) {
	l.t.Helper()
	<-time.After(d)
	for _, name := range hosts {
		for h := l.hosts[name]; len(h.events) > 0; {
			e := <-h.events
			l.t.Errorf("%s: %s alive: %t", name, e.node, e.alive)
		}
	}
}

// now is what the host's agent thinks of a node.
func (h *host) now(node string) (s PeerState) {
	h.lan.t.Helper()
	h.waitState("about "+node, 10*time.Second, func(all []PeerState) bool {
		for _, s = range all {
			if s.Node == node {
				return true
			}
		}
		return false
	})
	return s
}

func (h *host) waitState(what string, within time.Duration, ok func([]PeerState) bool) {
	h.lan.t.Helper()
	var last []PeerState
	start := time.Now()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for give := within; time.Since(start) < give; give = within + machine.since(start) {
		if h.answer(&last) && ok(last) {
			return
		}
		<-again.C
	}
	h.lan.t.Fatalf("%s waits %s, after %s; last: %+v", h.name, what, time.Since(start), last)
}

// answer asks the agent for its states.
func (h *host) answer(states *[]PeerState) bool {
	h.asked++
	question := fmt.Sprint(h.asked)
	io.WriteString(h.ask, question+"\n")
	for late := time.After(time.Second); ; {
		select {
		case a := <-h.answers:
			if a.Question == question { // else to one that was given up
				*states = a.States
				return true
			}
		case <-late:
			return false
		}
	}
}
