package fleet

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// times are how long something took, each time that it happened.
type times []time.Duration

// quantile is the nearest rank: the least of the times that so much of all do not
// exceed. Of none it is 0.
func (t times) quantile(q float64) time.Duration {
	if len(t) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(t))
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// String is for people.
func (t times) String() string {
	if len(t) == 0 {
		return "none"
	}
	return fmt.Sprintf("p50 %s, p99 %s, most %s", short(t.quantile(0.5)), short(t.quantile(0.99)), short(t.quantile(1)))
}

// short is a duration of three figures or so.
func short(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
}

// amount is a number with a unit, which may be a word, of three figures or so.
func amount(n float64, unit string) string {
	for _, prefix := range []struct {
		of   float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if n >= prefix.of {
			space := ""
			if len(unit) > 3 {
				space = " "
			}
			return fmt.Sprintf("%.3g %s%s%s", n/prefix.of, prefix.name, space, unit)
		}
	}
	return fmt.Sprintf("%.3g %s", n, unit)
}
