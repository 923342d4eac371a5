package api

import (
	"bytes"
	"encoding/json"
	"time"
)

// Version names the form of what the API answers, and of what the command line
// prints as JSON and YAML. docs/api.md says what it promises.
const Version = "shoal/v1"

// Marshal is v as JSON in which each object says its Version: v itself, or those
// of a list. Characters that mean something in HTML stay as they are.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	text := bytes.TrimSpace(b.Bytes())
	if len(text) == 0 || text[0] != '[' {
		return versioned(text), nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(text, &items); err != nil {
		return nil, err
	}
	list := []byte{'['}
	for i, item := range items {
		if i > 0 {
			list = append(list, ',')
		}
		list = append(list, versioned(item)...)
	}
	return append(list, ']'), nil
}

// versioned puts the version first in an object; it leaves other values alone.
func versioned(text []byte) []byte {
	if len(text) < 2 || text[0] != '{' {
		return text
	}
	head := `{"apiVersion":"` + Version + `"`
	if text[1] != '}' {
		head += ","
	}
	return append([]byte(head), text[1:]...)
}

// Duration is a time.Duration that JSON and YAML have as a string, "1.5s".
type Duration time.Duration

// String is what [time.ParseDuration] reads.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes what String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads it.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}
