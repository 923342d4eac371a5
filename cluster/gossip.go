package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
)

// goodbye is a message from one agent to another, as JSON: that it restarts. A
// version that is not known is passed over. It goes over TCP from who says it to
// each of the others: gossip hands on news in any order, and one that hears
// first that a node is gone does not take in any more what the node said before.
//
// Whoever has the key of gossip can say it in any node's name. So it does no
// more than put off a verdict; there is none that ends a node.
type goodbye struct {
	Version int    `json:"v"`
	Node    string `json:"node"`
	Why     string `json:"why"` // whyRestart
}

const whyRestart = "restarting"

func encodeGoodbye(node string) []byte { return encode(goodbye{1, node, whyRestart}) }

func decodeGoodbye(b []byte) (node string, ok bool) {
	var g goodbye
	if err := json.Unmarshal(b, &g); err != nil || g.Version != 1 || g.Why != whyRestart {
		return "", false
	}
	return g.Node, true
}

// gossipConfig tunes memberlist for a LAN and for verdicts that others form:
// it may be early, since what it says makes a host look sooner and no more. A
// dead node is suspected within about two probe intervals and reported after
// SuspicionMult*log10(nodes) of them more, 0.9 s for up to ten.
func gossipConfig(o LivenessOptions, d *delegate) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = o.Node
	c.BindAddr = o.Addr.String()
	c.BindPort = int(o.Port)
	c.AdvertiseAddr = c.BindAddr
	c.AdvertisePort = c.BindPort
	c.SecretKey = o.Identity.GossipKey()
	c.ProbeInterval = 300 * time.Millisecond
	c.ProbeTimeout = 200 * time.Millisecond // also of Memberlist.Ping
	c.SuspicionMult = 3
	c.SuspicionMaxTimeoutMult = 1
	c.GossipInterval = 100 * time.Millisecond
	c.PushPullInterval = 10 * time.Second
	c.TCPTimeout = time.Second
	// The dead are told so for a while, so that they can object, and forgotten
	// then: who is heard again is joined anew (Liveness.meet).
	c.GossipToTheDeadTime = 5 * time.Second
	c.EnableCompression = false // messages are small
	// A host may come back with another address.
	c.DeadNodeReclaimTime = time.Second
	c.Delegate = d
	c.Events = d
	c.Logger = log.New(&gossipLog{log: o.Log}, "", 0)
	return c
}

// delegate is what memberlist asks and tells.
type delegate struct{ l *Liveness }

func (d *delegate) NotifyMsg(b []byte) {
	if node, ok := decodeGoodbye(b); ok {
		d.l.told(node, func(j *failureDetector, now time.Time) { j.part(now) })
	} else if m, ok := decodeGeneration(b); ok {
		d.l.received(m)
	} else if m, ok := decodeSilent(b); ok {
		d.l.receivedSilent(m, time.Now())
	}
}

func (d *delegate) NotifyJoin(n *memberlist.Node) {
	d.l.meets(n.Name, n.Addr, true)
	d.l.told(n.Name, func(j *failureDetector, _ time.Time) { j.come() })
}

func (d *delegate) NotifyLeave(n *memberlist.Node) {
	d.l.meets(n.Name, n.Addr, false)
	d.l.told(n.Name, func(j *failureDetector, _ time.Time) { j.gone = true })
}

func (d *delegate) NotifyUpdate(*memberlist.Node)   {}
func (d *delegate) NodeMeta(int) []byte             { return nil }
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (d *delegate) LocalState(bool) []byte          { return nil }
func (d *delegate) MergeRemoteState([]byte, bool)   {}

// gossipLog takes memberlist's lines. What it has to say of dead and returned
// hosts is said by verdicts; what cannot be decrypted is news, but not each
// packet of it.
type gossipLog struct {
	log  *slog.Logger
	next time.Time // used by one Write at a time: log.Logger has a lock
}

func (g *gossipLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if now := time.Now(); strings.Contains(strings.ToLower(text), "crypt") && now.After(g.next) {
		g.next = now.Add(10 * time.Second)
		g.log.Warn("refused gossip that is not encrypted with the cluster's key", "why", text)
	} else {
		g.log.Debug(text)
	}
	return len(line), nil
}

// startGossip opens the gossip port.
func startGossip(o LivenessOptions, d *delegate) (*memberlist.Memberlist, error) {
	c := gossipConfig(o, d)
	g, err := newGossipPort(o)
	var ml *memberlist.Memberlist
	if err == nil {
		c.Transport = g
		if ml, err = memberlist.Create(c); err != nil {
			err = errors.Join(err, g.Shutdown())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the gossip port %s:%d, TCP and UDP: %w; is the address this host's, and the port free?", o.Addr, o.Port, err)
	}
	return ml, nil
}
