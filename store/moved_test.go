package store

import (
	"slices"
	"strings"
	"testing"
)

func TestAServerMoves(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	h := cl.three()
	h[2].Close()
	dir := cl.dirs["c"]
	moved := cl.open("c", func(o *Options) { o.Peers = cl.peers("f", dir) })
	moved.SetLocal(local())
	settled(t, moved)
	for _, x := range h[:2] {
		eventually(t, "the others ask it there", func() bool { return slices.Contains(x.client.Endpoints(), cl.endpoint("f")) })
	}
	cl.knowsPeers(h[0], "f")
	h[1].Close()
	follows(t, moved, h[0])
}

// knowsPeers waits until a host's etcd has members at those addresses. One that moved tells it, and tells it again where
// that fails.
func (c *cluster) knowsPeers(on *host, at ...string) {
	c.t.Helper()
	for _, name := range at {
		eventually(c.t, on.o.Node+" knows the peer at "+name, func() bool {
			members, err := on.members(c.t.Context())
			return err == nil && slices.ContainsFunc(members, func(m *member) bool { return strings.Contains(m.PeerURLs[0], c.addr(name).String()) })
		})
	}
}

func TestTwoOfThreeServersMoveAtOnce(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	h := cl.three()
	closeAll(h[1], h[2])
	var moved [2]*host
	for i, to := range map[int]string{0: "f", 1: "g"} {
		node := h[i+1].o.Node
		dir := cl.dirs[node]
		moved[i] = cl.start(node, func(o *Options) { o.Peers = cl.peers(to, dir) })
	}
	for _, x := range moved {
		settled(t, x)
	}
	follows(t, moved[0], moved[1], h[0])
	cl.knowsPeers(h[0], "f", "g")
	h[0].Close()
	follows(t, moved[0], moved[1])
}

func TestTheOnlyServerMoves(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	a := cl.serving("a")
	b := cl.start("b", cl.join("a"))
	settled(t, b)
	a.Close()
	dir := cl.dirs["a"]
	moved := cl.start("a", func(o *Options) { o.Peers = cl.peers("f", dir) })
	settled(t, moved)
	if err := b.Found([]string{"f:2379"}); err == nil {
		t.Error("an endpoint without an address was taken")
	}
	if err := b.Found([]string{cl.endpoint("f")}); err != nil {
		t.Fatal(err)
	}
	follows(t, moved, b)
	follows(t, b, moved)
	eventually(t, "b asks it there only", func() bool { return slices.Equal(b.client.Endpoints(), []string{cl.endpoint("f")}) })
	eventually(t, "b remembers it there", func() bool {
		p, err := readPlace(cl.dirs["b"])
		return err == nil && slices.Equal(p.Servers, []string{cl.endpoint("f")})
	})
}
