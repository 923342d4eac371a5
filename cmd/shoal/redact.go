package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// redacted stands in the place of what is not told.
const redacted = "REDACTED"

// secretWords are parts of names whose values are secrets.
const secretWords = `password|passwd|passphrase|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key|authorization`

// secretRules find secrets in any text. What a rule leaves as it is, is in its groups 1 and 2.
var secretRules = []struct {
	what string
	find *regexp.Regexp
}{
	{"private key", regexp.MustCompile(`(-----BEGIN [A-Z ]*PRIVATE KEY-----)[^-]*()`)},
	{"join token", regexp.MustCompile(`(SHOAL-\d+-)()[A-Za-z0-9+/=_-]+`)},
	{"password in an address", regexp.MustCompile(`(://)()[^/\s@"]+:[^/\s@"]+@`)},
	{"authorization", regexp.MustCompile(`(?i)\b((?:bearer|basic)\s+)()[A-Za-z0-9+/=._~-]{8,}`)},
	{"flag", regexp.MustCompile(`(?i)(--[\w-]*(?:` + secretWords + `)[\w-]*)([ =])[^\s"']+`)},
	{"value by its name", regexp.MustCompile(`(?i)([\w.-]*(?:` + secretWords + `)[\w.-]*)(\\?["']?\s*[=:]\s*\\?["']?)[^\s"',;&\\{}\[\]]+`)},
}

// redactor takes secrets out of texts, and counts them.
type redactor struct {
	found map[string]int // by what they are
}

func (r *redactor) text(s string) string {
	for _, rule := range secretRules {
		s = rule.find.ReplaceAllStringFunc(s, func(hit string) string {
			m := rule.find.FindStringSubmatch(hit)
			kept := m[1] + m[2]
			if kept+redacted == hit || strings.HasPrefix(hit[len(kept):], redacted) {
				return hit // another rule was here
			}
			r.note(rule.what)
			return kept + redacted + map[bool]string{true: "@"}[strings.HasSuffix(hit, "@")]
		})
	}
	return s
}

func (r *redactor) note(what string) {
	if r.found == nil {
		r.found = map[string]int{}
	}
	r.found[what]++
}

// summary says what was taken out; "": nothing was.
func (r *redactor) summary() string {
	var all []string
	for _, what := range slices.Sorted(maps.Keys(r.found)) {
		all = append(all, fmt.Sprintf("%d × %s", r.found[what], what))
	}
	return strings.Join(all, ", ")
}

// fileText is what a file of settings says, without secrets, and without the values of
// what is no setting of shoal's.
func (r *redactor) fileText(file map[string]inFile) string {
	var c settings
	c.declare(pflag.NewFlagSet("", pflag.ContinueOnError))
	known := map[string]bool{"run-dir": true}
	for _, f := range c.flags {
		known[f.Name] = true
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(file)) {
		value := r.text(file[name].value)
		switch {
		case secretSettings[name]:
			r.note("join token")
			value = redacted
		case !known[name]:
			r.note("value of an unknown setting")
			value = redacted
		}
		fmt.Fprintf(&b, "%s: %s\n", name, value)
	}
	return b.String()
}
