package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"shoal/events"
)

// eventTime is how long one who follows events may take nothing: then it is cut off.
const eventTime = time.Minute

// serveEvents streams events, a line of JSON each.
func serveEvents(w http.ResponseWriter, r *http.Request, b Backend) {
	var since time.Time
	follow, err := strconv.ParseBool(r.FormValue("follow"))
	if text := r.FormValue("since"); err == nil && text != "" {
		since, err = time.Parse(time.RFC3339Nano, text)
	}
	if err != nil {
		Reply(w, nil, fmt.Errorf("write follow as true or false, since as a time of RFC 3339: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	to := http.NewResponseController(w)
	_ = to.Flush() // one that does not want it is known by the next
	for e := range b.Events(r.Context(), since, follow) {
		line, err := Marshal(e)
		if err == nil {
			_ = to.SetWriteDeadline(time.Now().Add(eventTime)) // without one it is cut off when the agent ends
			_, err = w.Write(append(line, '\n'))
		}
		if err == nil {
			err = to.Flush()
		}
		if err != nil {
			return // the client has gone, or does not read
		}
	}
}

// Events calls each with what happened after a time (zero: nothing), and, if it is to
// follow, with what happens, until ctx ends, the agent does, or each returns an error,
// which it returns.
func (c *Client) Events(ctx context.Context, since time.Time, follow bool, each func(events.Event) error) error {
	query := url.Values{"follow": {strconv.FormatBool(follow)}}
	if !since.IsZero() {
		query.Set("since", since.Format(time.RFC3339Nano))
	}
	var stop error // of each
	err := c.await(ctx, func() error {
		return c.ask(ctx, http.MethodGet, "/v1/events?"+query.Encode(), func(r io.Reader) error {
			for from := json.NewDecoder(r); ; {
				var e events.Event
				if err := from.Decode(&e); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if stop = each(e); stop != nil {
					return nil
				}
			}
		})
	})
	if stop != nil {
		return stop
	}
	return err
}
