package store

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func TestServersFollowTheirRecords(t *testing.T) {
	t.Parallel()
	cl := newCluster(t)
	log := new(logBuffer)
	a := cl.serving("a")
	b := cl.start("b", cl.join("a"), func(o *Options) { o.Log = slog.New(slog.NewTextHandler(log, nil)) })
	settled(t, a)
	asks := func(endpoints ...string) func() bool {
		return func() bool { return slices.Equal(b.client.Endpoints(), endpoints) }
	}
	put := func(node, value string) {
		t.Helper()
		if _, err := a.client.Put(t.Context(), serverKey(node), value); err != nil {
			t.Fatal(err)
		}
	}
	put("x", encode(serverRecord{cl.endpoint("x")}))
	eventually(t, "b asks x too", asks(cl.endpoint("a"), cl.endpoint("x")))

	// A record that cannot be read changes nothing, and is logged once.
	put("x", `{"endpoint":"x:2379"}`)
	put("y", `{`)
	put("z", encode(serverRecord{cl.endpoint("z")}))
	eventually(t, "b asks z too", asks(cl.endpoint("a"), cl.endpoint("x"), cl.endpoint("z")))
	for _, key := range []string{serverKey("x"), serverKey("y")} {
		if n := strings.Count(log.String(), "key="+key); n != 1 {
			t.Errorf("%s was logged %d times:\n%s", key, n, log)
		}
	}

	// A server whose record is lost writes it again, and a client removes its own.
	for _, node := range []string{"x", "y", "z", "a"} {
		if _, err := a.client.Delete(t.Context(), serverKey(node)); err != nil {
			t.Fatal(err)
		}
	}
	put("b", encode(serverRecord{cl.endpoint("b")}))
	settled(t, a)
	eventually(t, "b's record is gone", func() bool {
		r, err := a.client.Get(t.Context(), serverKey("b"))
		return err == nil && r.Count == 0
	})
	eventually(t, "b asks a alone", asks(cl.endpoint("a")))
}
