// Package docs has the parts of the documentation that the command line prints: what is in
// these files, and nothing else.
package docs

import (
	_ "embed"
	"regexp"
	"strings"
)

//go:embed troubleshooting.md
var troubleshooting string

var heading = regexp.MustCompile(`(?m)^#+ .*$`)

// Problem is what troubleshooting.md says of a problem's code, as plain text without its
// heading, and whether it says anything.
func Problem(code string) (text string, ok bool) {
	for _, at := range heading.FindAllStringIndex(troubleshooting, -1) {
		if troubleshooting[at[0]:at[1]] != "### "+code {
			continue
		}
		text = troubleshooting[at[1]:]
		if end := heading.FindStringIndex(text); end != nil {
			text = text[:end[0]]
		}
		return strings.TrimSpace(strings.NewReplacer("`", "", "**", "").Replace(text)), true
	}
	return "", false
}

// Codes are the codes that troubleshooting.md has a section about, in its order.
func Codes() (codes []string) {
	for _, h := range heading.FindAllString(troubleshooting, -1) {
		if code, ok := strings.CutPrefix(h, "### "); ok {
			codes = append(codes, code)
		}
	}
	return codes
}
