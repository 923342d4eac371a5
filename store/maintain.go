package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"shoal/store/etcd"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// maintainEvery is how often a server looks at how full its etcd is. It asks
// nobody for that.
const maintainEvery = 10 * time.Second

// defragFrom is the size of a database from which it is worth being written anew.
const defragFrom = 64 << 20

// fill is how full an etcd is, in bytes.
type fill struct {
	size  int64 // of the database on disk, what is free in it as well: it is what counts for the quota
	inUse int64 // of what it holds, old revisions as well
	quota int64
	alarm bool // past the quota a member raised the alarm, since when nobody can write
}

// upkeep says what to do for an etcd not to be full.
//
// Records are written anew whenever a container changes its state, and etcd keeps
// old revisions for who may still read them: a watch that was interrupted. It
// lists again if they are gone. So they are given up before the quota is reached.
// What they leave free in the database is used again, but is given back to the
// disk, and to the quota, only when it is written anew (defragmented), during which
// this member answers nobody. And the alarm stays, whatever was freed, until
// somebody disarms it.
func (f fill) upkeep() (compact, defrag bool) {
	compact = f.alarm || f.inUse > f.quota/2
	defrag = f.alarm || f.size > min(defragFrom, f.quota/2) && f.inUse < f.size/2
	return compact, defrag
}

// roomy tells whether the alarm would not be raised again at once.
func (f fill) roomy() bool { return f.size < f.quota/10*9 }

// maintain keeps the etcd from being full for as long as it runs. every is the time
// between two looks; 0: maintainEvery.
func (e *embedded) maintain(every time.Duration, log *slog.Logger) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tick := time.NewTicker(cmp.Or(every, maintainEvery))
	defer tick.Stop()
	stopped := e.etcd.Server.StopNotify()
	for {
		select {
		case <-stopped:
			return
		case <-tick.C:
		}
		if err := e.makeRoom(ctx); err != nil {
			select {
			case <-stopped:
				return
			default:
				log.Warn("keep the store from being full", "error", err)
			}
		}
	}
}

// fill reads how full the etcd is.
func (e *embedded) fill() fill {
	b := e.etcd.Server.Backend()
	f := fill{size: b.Size(), inUse: b.SizeInUse(), quota: e.etcd.Config().QuotaBackendBytes}
	for _, a := range e.etcd.Server.Alarms() {
		f.alarm = f.alarm || a.Alarm == etcdserverpb.AlarmType_NOSPACE
	}
	return f
}

// makeRoom does what is to be done now.
func (e *embedded) makeRoom(ctx context.Context) error {
	f := e.fill()
	compact, defrag := f.upkeep()
	if compact {
		if err := e.compact(ctx); err != nil {
			return fmt.Errorf("compact etcd: %w", err)
		}
		// What was in use is known only after the compaction; and the alarm needs
		// the file to be smaller.
		_, again := e.fill().upkeep()
		defrag = defrag || again
	}
	if defrag {
		if err := e.etcd.Server.Defragment(); err != nil {
			return fmt.Errorf("defragment etcd: %w", err)
		}
	}
	if !f.alarm {
		return nil
	}
	if f = e.fill(); !f.roomy() {
		return fmt.Errorf("etcd is full: it holds %d MiB of the %d that it may, and takes no more writes; remove services and containers that nobody needs", f.size>>20, f.quota>>20)
	}
	return e.disarm(ctx)
}

// compact gives up all revisions but the last.
func (e *embedded) compact(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer cancel()
	_, err := e.etcd.Server.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: e.etcd.Server.KV().Rev(), Physical: true})
	if errors.Is(err, mvcc.ErrCompacted) || errors.Is(err, rpctypes.ErrCompacted) {
		return nil // there was no write since
	}
	return err
}

// disarm ends the alarm, of every member: one that is still too full raises it
// again, and frees its own database.
func (e *embedded) disarm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer cancel()
	for _, a := range e.etcd.Server.Alarms() {
		if a.Alarm != etcdserverpb.AlarmType_NOSPACE {
			continue
		}
		if _, err := e.etcd.Server.Alarm(ctx, &etcdserverpb.AlarmRequest{
			Action: etcdserverpb.AlarmRequest_DEACTIVATE, MemberID: a.MemberID, Alarm: a.Alarm,
		}); err != nil {
			return fmt.Errorf("disarm etcd's alarm: %w", err)
		}
	}
	return nil
}
