package reconcile

import (
	"context"
	"time"

	"shoal/internal/health"
	"shoal/model"
)

// Result is how a pass ended.
type Result struct {
	// Again is when to run the next pass for the sake of what no Snapshot tells,
	// such as something that failed; 0: not before the next Snapshot.
	Again time.Duration

	// More tells that a full pass stopped half-way, so as not to keep a newer
	// Snapshot waiting: the next pass goes on with it, and is due at once.
	More bool

	Problems []model.Problem // all there are
}

// Pass makes what a part owns as the Snapshot says. With full set it reads
// back what there really is, and repairs what others changed.
type Pass func(ctx context.Context, s *model.Snapshot, full bool) Result

// Loop runs the passes of one part.
type Loop struct {
	Pass Pass

	// Repair is the time from a full pass to the next, stretched where passes
	// take long; 0: never.
	Repair time.Duration

	// Changed, where it is not nil, delivers that somebody changed what the part
	// owns: a full pass is run at once.
	Changed <-chan struct{}

	// Full, where it is not nil, tells whether a new Snapshot takes a full pass.
	// Old is nil the first time.
	Full func(old, new *model.Snapshot) bool

	// Report, where it is not nil, is given the problems after each pass.
	Report func([]model.Problem)

	// Done, where it is not nil, is told when a pass is finished: how long it
	// took, with all its parts if it stopped half-way, and how many problems
	// there are.
	Done func(full bool, took time.Duration, problems int)

	// Heart, where it is not nil, beats while the loop makes progress: with each
	// pass, and while it waits for one.
	Heart *health.Heart
}

// Run runs passes with the newest Snapshot until ctx ends or the channel of
// Snapshots is closed: one for each Snapshot, the first of them full, and
// others when they are due. It runs none before the first Snapshot.
func (l *Loop) Run(ctx context.Context, snapshots <-chan *model.Snapshot) {
	again, repair := stoppedTimer(), stoppedTimer()
	defer again.Stop()
	defer repair.Stop()
	beat, stop := l.Heart.Tick()
	defer stop()
	var (
		last  *model.Snapshot
		full  = true        // nothing is known of the kernel
		more  bool          // a full pass stopped half-way
		spent time.Duration // on it
	)
	for {
		l.Heart.Beat()
		select {
		case <-ctx.Done():
			return
		case <-beat:
			continue
		case s, ok := <-snapshots:
			if !ok {
				return
			}
			full = l.Full != nil && l.Full(last, s) || full
			last = s
		case <-l.Changed:
			full = true
		case <-repair.C:
			full = true
		case <-again.C:
		}
		if last == nil {
			continue
		}
		start := time.Now()
		r := l.Pass(ctx, last, full)
		spent += time.Since(start)
		if l.Report != nil {
			l.Report(r.Problems)
		}
		whole := full || more
		full, more = false, whole && r.More
		if more {
			again.Reset(0)
			continue
		}
		if l.Done != nil {
			l.Done(whole, spent, len(r.Problems))
		}
		if whole && l.Repair > 0 {
			repair.Reset(stretch(spent, l.Repair))
		}
		if again.Stop(); r.Again > 0 {
			again.Reset(r.Again)
		}
		spent = 0
	}
}

// stretch is the time from a full pass to the next: the period, or up to twice
// that where a pass takes long, so that the host has other things to do.
func stretch(took, period time.Duration) time.Duration {
	return min(max(10*took, period), 2*period)
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}
