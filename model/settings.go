package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Settings are what has to be set alike on all hosts of a cluster, as one text: pairs of
// name=value, by name, with a blank between them. "" says nothing: the host's agent is of a
// version that did not tell. Names and values have no blanks.
type Settings string

// NewSettings makes them of values by name.
func NewSettings(values map[string]string) Settings {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		pairs = append(pairs, name+"="+strings.ReplaceAll(values[name], " ", ""))
	}
	return Settings(strings.Join(pairs, " "))
}

// Values are the values by name.
func (s Settings) Values() map[string]string {
	values := map[string]string{}
	for _, pair := range strings.Fields(string(s)) {
		if name, value, ok := strings.Cut(pair, "="); ok {
			values[name] = value
		}
	}
	return values
}

// SettingsError says in which settings two hosts differ.
type SettingsError struct{ differ []string }

func (e *SettingsError) Error() string {
	return fmt.Sprintf("these have to be the same on all hosts of a cluster: %s", strings.Join(e.differ, "; "))
}

// ProblemCode is [SettingsDiffer].
func (e *SettingsError) ProblemCode() Code { return SettingsDiffer }

// Agree returns a [SettingsError] where a host that is called other has another value of a
// setting than this one, which is called self. What only one of them tells does not count.
func (s Settings) Agree(other Settings, self, otherName string) error {
	mine, theirs := s.Values(), other.Values()
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(mine)) {
		if is, told := theirs[name]; told && is != mine[name] {
			differ = append(differ, fmt.Sprintf("--%s is %s on %s, and %s on %s", name, mine[name], self, is, otherName))
		}
	}
	if len(differ) > 0 {
		return &SettingsError{differ}
	}
	return nil
}
