package preflight

import (
	"errors"
	"fmt"
	"strings"
)

// Level is how bad a finding is. They are in order.
type Level int

// The levels.
const (
	OK      Level = iota
	Warning       // shoal runs; something does not work, or may stop working
	Cannot        // shoal cannot run
)

var levels = []string{"ok", "warning", "cannot run"}

func (l Level) String() string { return levels[l] }

// MarshalText writes what String does.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads it.
func (l *Level) UnmarshalText(b []byte) error {
	for i, name := range levels {
		if string(b) == name {
			*l = Level(i)
			return nil
		}
	}
	return fmt.Errorf("level %q: there are %s", b, strings.Join(levels, ", "))
}

// Finding is the outcome of one check.
type Finding struct {
	Check string `json:"check"` // what was looked at, "engine"
	Level Level  `json:"level"`
	Found string `json:"found"`            // what was found, and what it means
	Do    string `json:"advice,omitempty"` // what to do about it; "": nothing, or Found tells
}

// Identity is what was looked at.
func (f Finding) Identity() string { return f.Check }

// String is a finding in a line.
func (f Finding) String() string {
	s := f.Check + ": " + f.Found
	if f.Do != "" {
		s += ": " + f.Do
	}
	return s
}

// Worst is the highest level of them.
func Worst(fs []Finding) Level {
	worst := OK
	for _, f := range fs {
		worst = max(worst, f.Level)
	}
	return worst
}

// Refusal is all that keeps shoal from running, in one error; nil: nothing does.
func Refusal(fs []Finding) error {
	var errs []error
	for _, f := range fs {
		if f.Level == Cannot {
			errs = append(errs, errors.New(f.String()))
		}
	}
	return errors.Join(errs...)
}
