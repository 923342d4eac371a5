package bench

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Row is one figure.
type Row struct {
	What    string // is measured
	Shoal   string // what shoal did, with its unit
	Against string // what did the other, and what it is; "" if there is none
	Ratio   spread // shoal's over the other's; its median 0: there is none
	Aim     string // "" if there is none
	Met     bool   // the aim
}

// String is for people who watch.
func (r Row) String() string {
	s := fmt.Sprintf("%s: %s", r.What, r.Shoal)
	if r.Against != "" {
		s += ", against " + r.Against
	}
	if r.Ratio.median != 0 {
		s += ", ratio " + r.Ratio.String()
	}
	if r.Aim != "" {
		s += ", aim " + r.Aim + ": " + r.met()
	}
	return s
}

func (r Row) met() string {
	switch {
	case r.Aim == "":
		return ""
	case r.Met:
		return "met"
	}
	return "**missed**"
}

// markdown is the table of the rows.
func markdown(rows []Row) string {
	var s strings.Builder
	s.WriteString("| What | shoal | against | ratio | aim | |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		ratio := ""
		if r.Ratio.median != 0 {
			ratio = r.Ratio.String()
		}
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s |\n", r.What, r.Shoal, r.Against, ratio, r.Aim, r.met())
	}
	return s.String()
}

// atLeast sets an aim for the ratio, as it is printed.
func (r Row) atLeast(aim float64) Row {
	r.Aim, r.Met = fmt.Sprintf("≥ %.2f", aim), round(r.Ratio.median) >= aim
	return r
}

// within sets an aim for a time of shoal's.
func (r Row) within(aim, took time.Duration) Row {
	r.Aim, r.Met = fmt.Sprintf("≤ %d ms", aim.Milliseconds()), took <= aim
	if aim >= time.Second {
		r.Aim = fmt.Sprintf("≤ %v s", aim.Seconds())
	}
	return r
}

// atMostTimes sets an aim for the ratio, as it is printed, where less is better.
func (r Row) atMostTimes(aim float64) Row {
	r.Aim, r.Met = fmt.Sprintf("≤ %.2f", aim), round(r.Ratio.median) <= aim
	return r
}

func round(x float64) float64 { return float64(int(x*100+0.5)) / 100 }

// spread is where the middle half of some figures lies.
type spread struct{ low, median, high float64 }

func (s spread) String() string {
	if s.low == s.high {
		return fmt.Sprintf("%.2f", s.median)
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s.median, s.low, s.high)
}

// exactly is the spread of one figure.
func exactly(x float64) spread { return spread{x, x, x} }

func spreadOf(all []float64) spread {
	return spread{percentile(all, 25), percentile(all, 50), percentile(all, 75)}
}

// percentile is the smallest of all that p percent do not exceed (nearest
// rank); of none, it is zero.
func percentile[T cmp.Ordered](all []T, p int) (v T) {
	if len(all) == 0 {
		return v
	}
	return slices.Sorted(slices.Values(all))[max((len(all)*p+99)/100, 1)-1]
}

// services says how many there are.
func services(n int) string {
	if n == 1 {
		return "1 service"
	}
	return thousands(n) + " services"
}

// thousands is a number with a comma before each three digits.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}
