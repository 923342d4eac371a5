package store

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestUpkeepOfAnEtcd(t *testing.T) {
	const mib = 1 << 20
	for name, test := range map[string]struct {
		fill            fill
		compact, defrag bool
	}{
		"new":                                {fill{1 * mib, 1 * mib, 2048 * mib, false}, false, false},
		"of the usual size":                  {fill{100 * mib, 80 * mib, 2048 * mib, false}, false, false},
		"more than half of it free":          {fill{200 * mib, 90 * mib, 2048 * mib, false}, false, true},
		"small, more than half of it free":   {fill{60 * mib, 1 * mib, 2048 * mib, false}, false, false},
		"half full":                          {fill{1100 * mib, 1030 * mib, 2048 * mib, false}, true, false},
		"half full once, now mostly free":    {fill{1100 * mib, 10 * mib, 2048 * mib, false}, false, true},
		"an alarm":                           {fill{2048 * mib, 2000 * mib, 2048 * mib, true}, true, true},
		"an alarm of another member":         {fill{10 * mib, 10 * mib, 2048 * mib, true}, true, true},
		"a small quota, most of it free":     {fill{10 * mib, 4 * mib, 16 * mib, false}, false, true},
		"a small quota, in use for the most": {fill{10 * mib, 9 * mib, 16 * mib, false}, true, false},
	} {
		if compact, defrag := test.fill.upkeep(); compact != test.compact || defrag != test.defrag {
			t.Errorf("%s: compact %t, defragment %t", name, compact, defrag)
		}
	}
}

// TestAStoreThatWasFullTakesWritesAgain fills a real etcd up to a small quota with revisions of one record. Without
// help etcd refuses writes from then on, for good.
func TestAStoreThatWasFullTakesWritesAgain(t *testing.T) {
	t.Parallel()
	const quota = 16 << 20
	c := open(t, "a", shortDir(t), func(o *Options) { o.quota, o.maintainEvery = quota, 3*time.Second })
	put := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := c.Store.Client().Put(ctx, "/test/flapping", strings.Repeat("x", 64<<10))
		return err
	}
	// Etcd counts what it has committed, once a second.
	eventually(t, "the quota is reached", func() bool {
		var err error
		for range 64 {
			err = put()
		}
		return errors.Is(err, rpctypes.ErrNoSpace)
	})
	c.SetLocal(local(ctr("a", "1", "10.0.0.1")))
	eventually(t, "it is known to be full", c.Full)
	eventually(t, "what waited is written", func() bool { return !c.Full() && c.Catalog.Status().Unsaved == 0 })
	if err := put(); err != nil {
		t.Errorf("it takes no writes still: %v", err)
	}
	if h := c.Health(); h.DBSize > quota/4 {
		t.Errorf("it is left with %d bytes", h.DBSize)
	}
}

// TestAStoreIsKeptFromBeingFull: ten times the quota is written, faster than anything flaps.
func TestAStoreIsKeptFromBeingFull(t *testing.T) {
	t.Parallel()
	const quota = 16 << 20
	c := open(t, "a", shortDir(t), func(o *Options) { o.quota, o.maintainEvery = quota, 20*time.Millisecond })
	refused, last := 0, error(nil)
	for range 10 * quota / (64 << 10) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, last = c.Store.Client().Put(ctx, "/test/flapping", strings.Repeat("x", 64<<10))
		cancel()
		switch {
		case errors.Is(last, rpctypes.ErrNoSpace):
			refused++
		case last != nil:
			t.Fatal(last)
		}
	}
	eventually(t, "a write is taken", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := c.Store.Client().Put(ctx, "/test/flapping", "x")
		return err == nil
	})
	t.Logf("%d writes were refused", refused)
}
