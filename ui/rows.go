package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// rows is a [Document] as it is sent: by section, then by key.
type rows map[string]map[string]json.RawMessage

// encode encodes the sections that are there.
func (d *Document) encode() (r rows, err error) {
	b, err := json.Marshal(d)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return nil, fmt.Errorf("encode what the page shows: %w", err)
	}
	return r, nil
}

var gone = json.RawMessage("null")

// update puts new sections in the place of the old ones, and adds what differs to
// changed.
func (r rows) update(sections, changed rows) {
	put := func(name, key string, row json.RawMessage) {
		if changed[name] == nil {
			changed[name] = map[string]json.RawMessage{}
		}
		changed[name][key] = row
	}
	for name, now := range sections {
		was := r[name]
		for key, row := range now {
			if old, ok := was[key]; !ok || !bytes.Equal(old, row) {
				put(name, key, row)
			}
		}
		for key := range was {
			if _, ok := now[key]; !ok {
				put(name, key, gone)
			}
		}
		r[name] = now
	}
}

// event is a server-sent event: one line of JSON.
func event(name string, data any) ([]byte, error) {
	b, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("encode what the page shows: %w", err)
	}
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, b), nil
}
