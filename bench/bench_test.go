package bench

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestPercentileIsTheNearestRank(t *testing.T) {
	for _, c := range []struct {
		of   []int
		p    int
		want int
	}{
		{nil, 50, 0},
		{[]int{7}, 99, 7},
		{[]int{4, 1, 3, 2}, 50, 2},
		{[]int{4, 1, 3, 2}, 75, 3},
		{[]int{4, 1, 3, 2}, 99, 4},
	} {
		if got := percentile(c.of, c.p); got != c.want {
			t.Errorf("percentile %d of %v: got %d, want %d", c.p, c.of, got, c.want)
		}
	}
}

func TestRatioIsOfRatesAndByRound(t *testing.T) {
	ms := func(all ...int) (times []time.Duration) {
		for _, n := range all {
			times = append(times, time.Duration(n)*time.Millisecond)
		}
		return times
	}
	// One request was held up in the first round and one in the second, all in the last.
	compared := turns{
		{ms(2, 2, 2), ms(4, 90, 4), ms(20, 20, 20)},
		{ms(1, 70, 1), ms(2, 2, 2), ms(10, 10, 10)},
	}
	if got := compared.ratio(0, 1); got != exactly(0.5) {
		t.Errorf("ratio: got %v, want 0.5 in every round", got)
	}
	if got := compared.rate(0); got != 250 {
		t.Errorf("rate: got %v/s, want 250/s for a median of 4 ms", got)
	}
}

func TestGrowthIsThatOfOneSideBesideAnothers(t *testing.T) {
	round := func(n time.Duration) [][]time.Duration { return [][]time.Duration{{n}} }
	compared := turns{round(30), round(10), round(8), round(4)}
	if got := compared.growth(0, 1, 2, 3); got != exactly(1.5) {
		t.Errorf("three times as long, where the other takes twice as long: got %v, want 1.5", got)
	}
}

func TestSidesAreAskedInTurns(t *testing.T) {
	var order strings.Builder
	ask := func(name string) side {
		return func() ([]time.Duration, error) {
			order.WriteString(name)
			return []time.Duration{time.Millisecond}, nil
		}
	}
	got := new(bench).compare(ask("a"), ask("b"), ask("c"))
	if want := "abc" + strings.Repeat("abccba", leastRounds*roundBursts/2); order.String() != want {
		t.Errorf("asked %s, want %s", order.String(), want)
	}
	if len(got) != 3 || len(got[2]) != leastRounds || len(got[2][0]) != roundBursts {
		t.Errorf("got %v", got)
	}
}

func TestAimsAreJudgedAsTheyArePrinted(t *testing.T) {
	for _, c := range []struct {
		row  Row
		want string
	}{
		{Row{}, ""},
		{Row{Ratio: exactly(0.9451)}.atLeast(0.95), "met"},
		{Row{Ratio: exactly(0.944)}.atLeast(0.95), "**missed**"},
		{Row{Ratio: exactly(1.0549)}.atMostTimes(1.05), "met"},
		{Row{Ratio: exactly(1.056)}.atMostTimes(1.05), "**missed**"},
		{Row{}.within(100*time.Millisecond, 100*time.Millisecond), "met"},
		{Row{}.within(100*time.Millisecond, 101*time.Millisecond), "**missed**"},
	} {
		if got := c.row.met(); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.row, got, c.want)
		}
	}
}

func TestFailuresBeforeTheMomentDoNotCount(t *testing.T) {
	start := time.Now()
	at := func(ms int, err error) probe {
		return probe{begun: start.Add(time.Duration(ms) * time.Millisecond), err: err}
	}
	failed := errors.New("failed")
	n, last := failures([]probe{at(-5, failed), at(30, failed), at(20, failed), at(40, nil)}, start)
	if n != 2 || last != 30*time.Millisecond {
		t.Errorf("got %d, the last after %v; want 2, after 30ms", n, last)
	}
}

func TestServicesAreCounted(t *testing.T) {
	for n, want := range map[int]string{1: "1 service", 1000: "1,000 services"} {
		if got := services(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func TestThousandsHaveCommas(t *testing.T) {
	for n, want := range map[int]string{1: "1", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

func TestAddressesCountOnOverTheThirdByte(t *testing.T) {
	if got := nth("10.96.128.0", 1000).String(); got != "10.96.131.232" {
		t.Errorf("got %s", got)
	}
}

func TestTableHasALineForEachRow(t *testing.T) {
	got := markdown([]Row{{What: "w", Shoal: "1", Against: "2", Ratio: spread{0.4, 0.5, 0.6}}, {What: "x", Shoal: "3"}})
	for _, want := range []string{"| w | 1 | 2 | 0.50 (0.40–0.60) |  |  |\n", "| x | 3 |  |  |  |  |\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}
