package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"shoal/api"
	"shoal/events"
	"shoal/internal/printable"
)

// eventsAgain is how long is waited for an agent that ended before it is asked anew.
const eventsAgain = time.Second

func eventsCommand(o *options) *cobra.Command {
	var since time.Duration
	var follow bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Follow what happens in the cluster, as this host sees it",
		Long: `Follow what happens in the cluster, as this host sees it, until interrupted:
tasks start, enter rotation, drain, leave or die; services and hosts come and
go; problems appear and are gone. Problems are those that this host's agent
knows of, and how a task died is known on its own host.

Prints a line an event; with -o json an object a line. Whoever reads too slowly
is told how many events were dropped.`,
		Example: "  sudo shoal events\n  sudo shoal events --since 10m --follow=false\n  sudo shoal events -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if since < 0 {
				return &usageError{fmt.Errorf("--since %s: use a duration like 90s, 5m or 2h", since)}
			}
			if !follow && since == 0 {
				return &usageError{errors.New("--follow=false needs --since: what is to be told of")}
			}
			var from time.Time
			if since > 0 {
				from = time.Now().Add(-since)
			}
			out := cmd.OutOrStdout()
			if !follow {
				return o.client().Events(cmd.Context(), from, false, func(e events.Event) error { return o.showEvent(out, e) })
			}
			return o.followEvents(cmd.Context(), out, from)
		},
	}
	cmd.Flags().DurationVar(&since, "since", 0, fmt.Sprintf("begin with the events of so long ago, 10m for one. The agent keeps the last %d of its run", events.Kept))
	cmd.Flags().BoolVar(&follow, "follow", true, "go on with what happens; false: end with the last event that there is")
	return cmd
}

// followEvents prints events as they happen. An agent that ends meanwhile is waited for.
func (o *options) followEvents(ctx context.Context, out io.Writer, from time.Time) error {
	c := o.client()
	answered, broken := false, error(nil)
	for said := ""; ; {
		err := c.Events(ctx, from, true, func(e events.Event) error {
			answered, said, from = true, "", e.Time
			broken = o.showEvent(out, e)
			return broken
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case broken != nil, err != nil && !answered:
			return err
		case err == nil:
			err = errors.New("the agent has ended; waiting for it to be there again")
		}
		if answered = true; err.Error() != said {
			said = err.Error()
			fmt.Fprintln(stderr, "shoal:", said)
		}
		if from.IsZero() {
			from = time.Now()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(eventsAgain):
		}
	}
}

// showEvent prints an event as -o says, in a line of its own.
func (o *options) showEvent(w io.Writer, e events.Event) error {
	switch o.format.kind {
	case "table", "wide":
		if p, ok := w.(*printable.Writer); ok && o.screen.colour {
			w = p.Unescaped()
		}
		_, err := io.WriteString(w, o.eventLine(e)+"\n")
		return err
	case "json":
		text, err := api.Marshal(e)
		if err == nil {
			_, err = w.Write(append(bytes.TrimSpace(text), '\n'))
		}
		return err
	case "yaml":
		if _, err := io.WriteString(w, "---\n"); err != nil {
			return err
		}
	}
	return o.format.encode(w, e)
}

// eventLine is an event in one line, with nothing in it that speaks to a terminal but
// colours.
func (o *options) eventLine(e events.Event) string {
	const longest = len(events.TaskOut)
	kind := o.screen.paint(painted{fmt.Sprintf("%-*s", longest, e.Type), eventTone(e.Type)})
	return e.Time.Local().Format(time.DateTime) + "  " + kind + "  " + printable.Line(cell(eventText(e)))
}

// eventText says what an event is about, and why.
func eventText(e events.Event) string {
	text := e.Service
	switch {
	case e.Type == events.Dropped:
		return fmt.Sprintf("%d events, as this was not read in time", e.Count)
	case e.Problem != nil:
		text = fmt.Sprintf("%s of %s %s on %s", e.Problem.Code, e.Problem.Kind, e.Problem.Object, e.Node)
		if e.Type == events.ProblemGone {
			return text
		}
	case e.Name != "":
		text = fmt.Sprintf("%s of %s on %s", e.Name, e.Service, e.Node)
	case e.Service == "":
		text = e.Node
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

func eventTone(t events.Type) tone {
	switch t {
	case events.TaskIn, events.HostBack, events.HostJoined, events.ProblemGone:
		return good
	case events.TaskDied, events.HostDead, events.ProblemFound:
		return bad
	case events.TaskOut, events.TaskDraining, events.HostRemoved, events.Dropped:
		return wary
	}
	return plain
}
