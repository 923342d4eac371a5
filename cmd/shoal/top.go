package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"shoal/api"
	"shoal/traffic"
)

// topEvery is the time between two looks of shoal top. Hosts count anew every two seconds.
const topEvery = 2100 * time.Millisecond

// topService is a service as shoal top shows it. Rates are of all hosts, a second.
type topService struct {
	ID          string  `json:"id"`
	Tasks       int     `json:"tasks"`
	InRotation  int     `json:"inRotation"`
	Open        int     `json:"open"`        // connections, established now
	Connections float64 `json:"connections"` // new ones
	BytesIn     float64 `json:"bytesIn"`     // from clients; 0 where the data plane counts none
	BytesOut    float64 `json:"bytesOut"`
}

// Identity is stack/name.
func (s topService) Identity() string { return s.ID }

func topCommand(o *options) *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show the services with the most traffic, and what is wrong",
		Long: `Show the services with the most traffic, anew every two seconds until
interrupted: tasks in rotation, open connections, new ones a second, octets a
second from clients and to them, over all hosts; and what is wrong in the
cluster. Data planes that count no octets show none.

With --once, and where the output is no terminal, print that once: rates take
two seconds.`,
		Example: "  sudo shoal top\n  sudo shoal top --once -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			t := &top{o: o}
			if !once && o.screen.terminal && o.format.tabular() {
				t.live = true
				return t.listing().watch(cmd, o, args)
			}
			if _, err := t.look(cmd.Context()); err != nil {
				return err
			}
			select { // rates need two looks
			case <-cmd.Context().Done():
				return nil
			case <-time.After(topEvery):
			}
			return t.listing().run(cmd, o, args)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "print it once")
	return cmd
}

// top is what it takes to look again and again.
type top struct {
	o     *options
	live  bool // what does not fit on the screen is left out
	meter traffic.Meter

	health  *statusView // of the last look
	unknown map[string]string
	left    int // services that are left out
}

func (t *top) listing() listing[topService] {
	moving := func(head string, cell func(topService) any) column[topService] {
		return column[topService]{head: head, cell: cell, moves: true}
	}
	return listing[topService]{
		every: topEvery, above: t.above, below: t.below,
		fetch: func(cmd *cobra.Command, _ []string) ([]topService, error) { return t.look(cmd.Context()) },
		columns: []column[topService]{
			col("SERVICE", func(s topService) any { return s.ID }),
			col("IN ROTATION", func(s topService) any {
				return painted{fmt.Sprintf("%d/%d", s.InRotation, s.Tasks), rotationTone(s.InRotation, s.Tasks)}
			}),
			moving("OPEN", func(s topService) any { return s.Open }),
			moving("NEW/S", func(s topService) any { return fmt.Sprintf("%.1f", s.Connections) }),
			moving("IN/S", func(s topService) any { return octets(s.BytesIn) }),
			moving("OUT/S", func(s topService) any { return octets(s.BytesOut) }),
		},
	}
}

// look asks all hosts.
func (t *top) look(ctx context.Context) ([]topService, error) {
	c := t.o.client()
	var services []api.ServiceView
	var counted api.Traffic
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { t.health, err = healthOf(ctx, c); return err })
	g.Go(func() (err error) { services, err = c.Services(ctx); return err })
	g.Go(func() (err error) { counted, err = c.Traffic(ctx); return err })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	picture := t.meter.Update(counted.Hosts)
	t.unknown = picture.Unknown
	for host, why := range counted.Unknown {
		t.unknown[host] = why
	}
	all := topOf(services, picture)
	t.left = 0
	if room := t.room(); t.live && len(all) > room {
		all, t.left = all[:room], len(all)-room
	}
	return all, nil
}

// topOf are services with their traffic, the busiest first.
func topOf(services []api.ServiceView, p traffic.Picture) []topService {
	rates, open := map[string]traffic.ServiceRate{}, map[string]int{}
	for _, r := range p.Services {
		rates[r.ID.String()] = r
	}
	for _, f := range p.Flows {
		open[f.To.String()] += f.Open
	}
	all := []topService{}
	for _, s := range services {
		r := rates[s.ID]
		all = append(all, topService{s.ID, s.Tasks, s.InRotation, open[s.ID], r.Connections, r.BytesIn, r.BytesOut})
	}
	slices.SortStableFunc(all, func(a, b topService) int {
		return cmp.Or(cmp.Compare(b.Connections, a.Connections), cmp.Compare(b.Open, a.Open), cmp.Compare(b.BytesIn+b.BytesOut, a.BytesIn+a.BytesOut))
	})
	return all
}

// room is how many services fit on the screen, above and below which there are lines.
func (t *top) room() int {
	if t.o.screen.height == 0 {
		return 1 << 30
	}
	const others = 4 // the cluster's line and one without text, the head, what is left out
	return max(1, t.o.screen.height-others-len(t.wrong())-1)
}

func (t *top) above(w io.Writer) {
	h := t.health
	row(w, fmt.Sprintf("%s: hosts %s; services %d; tasks in rotation %d of %d; problems %s",
		h.Node, hostsText(h.Status), h.Services, h.Rotation, h.Tasks, problemsText(h.Problems, h.Notices)))
	fmt.Fprintln(w)
}

func (t *top) below(w io.Writer) {
	if t.left > 0 {
		row(w, painted{fmt.Sprintf("and %d with less", t.left), faint})
	}
	for _, line := range t.wrong() {
		row(w, painted{line, wary})
	}
}

// wrong are the problems, and which hosts' traffic is not known, a line each.
func (t *top) wrong() []string {
	lines := t.health.reasons()
	if len(t.unknown) > 0 {
		var hosts []string
		for host := range t.unknown {
			hosts = append(hosts, host)
		}
		slices.Sort(hosts)
		lines = append(lines, fmt.Sprintf("not all traffic is known of %s: %s", someNames(hosts), t.unknown[hosts[0]]))
	}
	return lines
}

// octets are so many a second, in a few characters.
func octets(n float64) string {
	if n < 1000 {
		return fmt.Sprintf("%.0f B", n)
	}
	for _, unit := range []string{"kB", "MB", "GB"} {
		if n /= 1000; n < 1000 {
			return fmt.Sprintf("%.1f %s", n, unit)
		}
	}
	return fmt.Sprintf("%.1f TB", n/1000)
}
