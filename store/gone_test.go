package store

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"shoal/model"
)

// TestAServerWithoutItsDataBeginsNoSecondStore: one of three goes on with what the others have, and can serve again.
func TestAServerWithoutItsDataBeginsNoSecondStore(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	cl.checked = true
	h := cl.three()
	d := cl.start("d", cl.join("a"))
	settled(t, d)
	h[2].Close()
	if err := os.RemoveAll(dataDir(cl.dirs["c"])); err != nil {
		t.Fatal(err)
	}
	c := cl.start("c")
	settled(t, c)
	follows(t, c, h[0], h[1])
	if s := c.Health(); s.Role != RoleClient || s.Embedded {
		t.Errorf("status %+v", s)
	}
	hasVoters(t, h[0], "a b")
	if _, err := d.Promote(t.Context()); err != nil { // etcd adds no member beyond those that are up
		t.Fatal(err)
	}
	hasVoters(t, h[0], "a b d")
	if _, err := c.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	hasVoters(t, h[0], "a b c d")
}

// TestTheOnlyServerWithoutItsDataBeginsNoNewStore: its hosts would lose what they have. What is put back is used.
func TestTheOnlyServerWithoutItsDataBeginsNoNewStore(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	a := cl.serving("a")
	settled(t, a)
	a.Close()
	data := dataDir(cl.dirs["a"])
	if err := os.Rename(data, data+".away"); err != nil {
		t.Fatal(err)
	}
	a = cl.open("a")
	if err := a.Down(); err == nil || !strings.Contains(err.Error(), "shoal server recover") {
		t.Errorf("it is down: %v", err)
	}
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(data+".away", data); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool { return a.Down() == nil })
}

// TestAPromotionThatARestartBrokeOffIsEnded: meanwhile the host is sent no requests of clients, which a learner refuses.
func TestAPromotionThatARestartBrokeOffIsEnded(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	a := cl.serving("a")
	b := cl.start("b", cl.join("a"))
	settled(t, b)
	if _, err := b.startLearner(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Close()
	b = cl.start("b")
	settled(t, b)
	follows(t, b, a)
	if !b.Promoting() || slices.Contains(a.Servers(), "b") {
		t.Errorf("promoting %v, listed %v", b.Promoting(), a.Servers())
	}
	if err := b.EndPromotion(t.Context()); err != nil {
		t.Fatal(err)
	}
	hasVoters(t, a, "a b")
	eventually(t, "b is listed", func() bool { return slices.Contains(a.Servers(), "b") })
	b.Close()
	b = cl.open("b")
	if b.Promoting() || !slices.Contains(b.client.Endpoints(), socketEndpoint(cl.dirs["b"])) {
		t.Errorf("after a restart: promoting %v, endpoints %v", b.Promoting(), b.client.Endpoints())
	}
}

// TestServersOfABackupsTimeAreNotListed: they would count as lost servers for ever, and nobody would take their places.
func TestServersOfABackupsTimeAreNotListed(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	a := cl.serving("a")
	settled(t, a)
	for _, name := range []string{"b", "c"} {
		if _, err := a.client.Put(t.Context(), serverKey(name), encode(serverRecord{cl.endpoint(name)})); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "b and c are listed", func() bool { return len(a.Servers()) == 3 })
	a.Close()
	a = cl.open("a")
	eventually(t, "a alone is listed", func() bool { return slices.Equal(a.Servers(), []string{"a"}) })
	if _, err := a.ClaimVIP(t.Context(), model.ServiceID{Stack: model.DefaultStack, Name: "web"}, netip.MustParseAddr("10.96.0.1")); err != nil {
		t.Error(err)
	}
}
