package bench

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A round of a comparison has so many bursts of each side, and a burst so many
// requests. Bursts are short because the machine is shared: what takes the
// processor away for a while should hit all sides alike.
const (
	roundBursts  = 6
	burstLength  = 5
	leastRounds  = 11
	bulk         = 2 << 20 // bytes of one transfer
	requestLimit = time.Minute
)

// side makes a burst of requests and returns how long each took.
type side func() ([]time.Duration, error)

// turns are the times of each side, by round.
type turns [][][]time.Duration

// compare lets two or more sides make their requests in turns.
func (b *bench) compare(sides ...side) turns {
	t := make(turns, len(sides))
	burst := func(i int) []time.Duration {
		times, err := sides[i]()
		b.must("a client's request", err)
		return times
	}
	for i := range sides { // does not count
		burst(i)
	}
	for start := time.Now(); len(t[0]) < leastRounds || time.Since(start) < b.long; {
		round := make([][]time.Duration, len(sides))
		for n := range roundBursts {
			for i := range sides {
				if n%2 == 1 {
					i = len(sides) - 1 - i
				}
				round[i] = append(round[i], burst(i)...)
			}
		}
		for i := range sides {
			t[i] = append(t[i], round[i])
		}
	}
	return t
}

// time is a percentile of all the times of a side.
func (t turns) time(side, p int) time.Duration {
	var all []time.Duration
	for _, round := range t[side] {
		all = append(all, round...)
	}
	return percentile(all, p)
}

// rate is how many requests a side makes in a second, each taking the median time.
func (t turns) rate(side int) float64 { return 1 / t.time(side, 50).Seconds() }

// ratio is that of the rates of two sides, each round by its median times.
func (t turns) ratio(ours, other int) spread {
	var all []float64
	for round := range t[ours] {
		all = append(all, float64(percentile(t[other][round], 50))/float64(percentile(t[ours][round], 50)))
	}
	return spreadOf(all)
}

// times is the ratio of the times of two sides, which is the other way round.
func (t turns) times(ours, other int) spread { return t.ratio(other, ours) }

// growth is how much slower a side has become beside how much slower another has: 1 where
// what slows them down, such as more addresses, does so alike.
func (t turns) growth(now, before, otherNow, otherBefore int) spread {
	var all []float64
	took := func(side, round int) float64 { return float64(percentile(t[side][round], 50)) }
	for round := range t[now] {
		all = append(all, took(now, round)/took(before, round)*took(otherBefore, round)/took(otherNow, round))
	}
	return spreadOf(all)
}

// contest is what two paths were found to do.
type contest struct{ kept, once, first, bulk turns }

// aims are what the ratios should be at least.
type aims struct{ kept, once, bulk float64 }

// contest compares two paths in four ways.
func (b *bench) contest(ours, other path) contest {
	return contest{
		kept:  b.compare(ours.kept(), other.kept()),
		once:  b.compare(ours.once(), other.once()),
		first: b.compare(ours.first(), other.first()),
		bulk:  b.compare(ours.bulk(), other.bulk()),
	}
}

// rows tell of a contest. label begins each; against is what the other path is; an aim of
// zero is none.
func (c contest) rows(label, against string, aim aims) []Row {
	row := func(what, unit string, scale float64, t turns, aim float64) Row {
		r := Row{What: label + ": " + what, Ratio: t.ratio(0, 1),
			Shoal: fmt.Sprintf("%.0f%s", scale*t.rate(0), unit), Against: fmt.Sprintf("%.0f%s %s", scale*t.rate(1), unit, against)}
		if aim > 0 {
			r = r.atLeast(aim)
		}
		return r
	}
	rows := []Row{
		row("requests on kept connections", "/s", 1, c.kept, aim.kept),
		row("requests each on a new connection", "/s", 1, c.once, aim.once),
		c.firstPacket(label, against),
		row("throughput", " MB/s", bulk/1e6, c.bulk, aim.bulk),
	}
	for _, p := range []int{50, 99} {
		ours, other := c.kept.time(0, p), c.kept.time(1, p)
		rows = append(rows, Row{What: fmt.Sprintf("%s: added latency, p%d", label, p),
			Shoal:   fmt.Sprintf("%+d µs, to %d µs", (ours - other).Microseconds(), ours.Microseconds()),
			Against: fmt.Sprintf("%d µs %s", other.Microseconds(), against), Ratio: exactly(float64(ours) / float64(other))})
	}
	return rows
}

// firstPacket tells how long the first packet takes to be answered.
func (c contest) firstPacket(label, against string) Row {
	ours, other := c.first.time(0, 50), c.first.time(1, 50)
	return Row{What: label + ": first packet to its answer, p50", Shoal: fmt.Sprintf("%.0f µs", us(ours)),
		Against: fmt.Sprintf("%.0f µs %s", us(other), against), Ratio: c.first.times(0, 1)}
}

// kept makes requests on one connection, which is made anew each round.
func (p path) kept() side {
	buf := make([]byte, 4096)
	return p.onConnection(burstLength, func(fd int) error { return askKept(fd, buf) })
}

// bulk transfers many bytes on one connection, likewise.
func (p path) bulk() side {
	buf := make([]byte, 256<<10)
	return p.onConnection(1, func(fd int) error { return askBulk(fd, buf) })
}

// onConnection makes bursts of so many requests on a connection. The first request of a
// connection does not count: the server greets it with a new goroutine, and may still
// be busy with the end of the last one.
func (p path) onConnection(length int, ask func(fd int) error) side {
	fd, bursts := -1, 0
	p.Cleanup(func() {
		if fd >= 0 {
			unix.Close(fd)
		}
	})
	renew := func() (err error) {
		if fd >= 0 {
			unix.Close(fd)
		}
		if fd, err = p.dial(requestLimit); err != nil {
			return err
		}
		return ask(fd)
	}
	return func() (times []time.Duration, err error) {
		err = p.do(func() error {
			if bursts%roundBursts == 0 {
				if err := renew(); err != nil {
					return err
				}
			}
			bursts++
			times, err = repeat(length, func() error { return ask(fd) })
			return err
		})
		return times, err
	}
}

// first makes connections: their first packet is a SYN, which is answered. What becomes of
// a connection after that does not count.
func (p path) first() side {
	buf := make([]byte, 4096)
	return func() (times []time.Duration, err error) {
		err = p.do(func() error {
			for range burstLength {
				start := time.Now()
				fd, err := p.dial(requestLimit)
				if err != nil {
					return err
				}
				times = append(times, time.Since(start))
				if err := finish(fd, buf); err != nil {
					return err
				}
			}
			return nil
		})
		return times, err
	}
}

// once makes requests each on a connection of its own.
func (p path) once() side {
	buf := make([]byte, 4096)
	return func() (times []time.Duration, err error) {
		err = p.do(func() error {
			times, err = repeat(burstLength, func() error { return p.askOnce(buf, requestLimit) })
			return err
		})
		return times, err
	}
}

// repeat does something so often, and returns how long it took each time.
func repeat(n int, f func() error) ([]time.Duration, error) {
	times := make([]time.Duration, n)
	last := time.Now()
	for i := range times {
		if err := f(); err != nil {
			return nil, err
		}
		now := time.Now()
		times[i], last = now.Sub(last), now
	}
	return times, nil
}
