package fleet

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A worker does one thing at a time: the driver sends a request, a line of JSON, and
// gets an answer, another line.

type request struct {
	Do   string          `json:"do"`
	Args json.RawMessage `json:"args,omitempty"`
}

type answer struct {
	Error string          `json:"error,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
}

// write writes a line.
func writeLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// readLine reads a line, of any length. At the end of the input the error is [io.EOF].
func readLine(r *bufio.Reader, v any) error {
	b, err := r.ReadBytes('\n')
	switch {
	case errors.Is(err, io.EOF) && len(b) > 0:
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%.80q: %w", b, err)
	}
	return nil
}

// action does a request.
type action func(args json.RawMessage) (any, error)

// does makes an action of a function with arguments of its own.
func does[A any](f func(A) (any, error)) action {
	return func(raw json.RawMessage) (any, error) {
		var args A
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &args); err != nil {
				return nil, err
			}
		}
		return f(args)
	}
}

// serve answers requests until there are no more.
func serve(in io.Reader, out io.Writer, actions map[string]action) error {
	for r := bufio.NewReader(in); ; {
		var q request
		if err := readLine(r, &q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var a answer
		do, known := actions[q.Do]
		if !known {
			a.Error = fmt.Sprintf("there is no %q", q.Do)
		} else if v, err := do(q.Args); err != nil {
			a.Error = err.Error()
		} else if a.Value, err = json.Marshal(v); err != nil {
			a.Error = err.Error()
		}
		if err := writeLine(out, a); err != nil {
			return err
		}
	}
}
