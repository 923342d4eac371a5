package cluster

import (
	"encoding/json"
	"net"
	"net/netip"

	"github.com/hashicorp/memberlist"
)

// Generation says which of a host's lists of containers is its last, to hosts that
// the store does not tell.
type Generation struct {
	Number  uint64 // another for each list, after restarts too; 0: the host has no list to give
	Stored  int64  // the store's revision that holds that list; 0: none does yet
	Cluster uint64 // the ID of the store that it is a revision of; 0: not told
}

// generationMessage is a question for a host's generation, or what a host says of
// its own. It goes by UDP to one host, as JSON. It is encrypted like all gossip, by
// a key that removed hosts know too: who receives one goes by what the host
// itself answers over mutual TLS, and the message says no more than that there is
// something to fetch.
type generationMessage struct {
	Version int        `json:"v"` // 1
	Node    string     `json:"node"`
	Why     string     `json:"why"` // whyGeneration, whyAsk
	Is      Generation `json:"is,omitzero"`
}

const (
	whyGeneration = "generation"
	whyAsk        = "generation?"
)

func decodeGeneration(b []byte) (m generationMessage, ok bool) {
	err := json.Unmarshal(b, &m)
	return m, err == nil && m.Version == 1 && (m.Why == whyGeneration || m.Why == whyAsk)
}

// TellGeneration tells this host's generation to all others that are alive. What
// is lost on the way is not sent again.
func (l *Liveness) TellGeneration() {
	if l.o.Generation == nil {
		return
	}
	if is := l.o.Generation(); is.Number != 0 {
		l.send(encode(generationMessage{1, l.o.Node, whyGeneration, is}), nil)
	}
}

// AskGenerations asks the other hosts that are alive for their generations, or
// those of them that are among only, where that is not nil. The answers come to
// HeardGeneration. There is none from a host that has no list, or whose agent is of
// an earlier version.
func (l *Liveness) AskGenerations(only map[string]bool) {
	l.send(encode(generationMessage{Version: 1, Node: l.o.Node, Why: whyAsk}), only)
}

// send sends a message to the others that are alive, or to those among only.
func (l *Liveness) send(message []byte, only map[string]bool) {
	to := map[string]netip.AddrPort{}
	l.mu.Lock()
	for name, p := range l.peers {
		if p.detector.alive && (only == nil || only[name]) {
			to[name] = p.addr
		}
	}
	l.mu.Unlock()
	for name, addr := range to {
		l.sendTo(name, addr, message)
	}
}

func (l *Liveness) sendTo(node string, addr netip.AddrPort, message []byte) {
	to := memberlist.Address{Name: node, Addr: net.UDPAddrFromAddrPort(addr).String()}
	if err := l.ml.SendToAddress(to, message); err != nil {
		l.o.Log.Debug("send a generation", "node", node, "error", err)
	}
}

// received takes in a message. Who asks is answered at the address that the
// store has of it: one that is not known is not answered.
func (l *Liveness) received(m generationMessage) {
	l.mu.Lock()
	p := l.peers[m.Node]
	var addr netip.AddrPort
	if p != nil {
		addr = p.addr
	}
	l.mu.Unlock()
	switch {
	case p == nil || l.o.Generation == nil || l.o.HeardGeneration == nil:
	case m.Why == whyGeneration:
		l.o.HeardGeneration(m.Node, m.Is)
	default:
		if is := l.o.Generation(); is.Number != 0 {
			l.sendTo(m.Node, addr, encode(generationMessage{1, l.o.Node, whyGeneration, is}))
		}
	}
}
