package vm

import (
	"bufio"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Mirror is the URL of the Debian archive that apt on this machine uses, by its own settings below /etc/apt.
func Mirror() (string, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("which distribution is this: %w", err)
	}
	files, err := filepath.Glob("/etc/apt/sources.list.d/*")
	if err != nil {
		return "", err
	}
	var all []source
	for _, file := range append([]string{"/etc/apt/sources.list"}, files...) {
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		switch filepath.Ext(file) {
		case ".sources":
			all = append(all, parseDeb822(string(b))...)
		case ".list":
			all = append(all, parseOneLine(string(b))...)
		}
	}
	return chooseMirror(all, codename(string(release)))
}

// source is one archive with its suites.
type source struct {
	uris   []string
	suites []string
}

// chooseMirror is the archive that has the suite of this machine. Updates and security fixes of it have suites of other
// names, and may be in archives that have nothing else.
func chooseMirror(all []source, suite string) (string, error) {
	for _, s := range all {
		if !slices.Contains(s.suites, suite) {
			continue
		}
		for _, uri := range s.uris {
			if u, err := url.Parse(uri); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
				return strings.TrimSuffix(uri, "/"), nil
			}
		}
	}
	return "", fmt.Errorf("apt's sources name no archive of the suite %q by http: name one by MIRROR=http://…", suite)
}

// codename finds VERSION_CODENAME in an os-release(5).
func codename(release string) string {
	for line := range strings.Lines(release) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); found {
			return strings.Trim(value, `"'`)
		}
	}
	return ""
}

// parseOneLine reads a sources.list(5) of lines "deb [options] URI SUITE COMPONENT...".
func parseOneLine(text string) (all []source) {
	for line := range strings.Lines(text) {
		rest, found := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !found {
			continue
		}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			_, rest, _ = strings.Cut(rest, "]")
		}
		if f := strings.Fields(rest); len(f) >= 2 {
			all = append(all, source{uris: f[:1], suites: f[1:2]})
		}
	}
	return all
}

// parseDeb822 reads a sources.list(5) of paragraphs of fields.
func parseDeb822(text string) (all []source) {
	var now source
	types, disabled := "", false
	end := func() {
		if slices.Contains(strings.Fields(types), "deb") && !disabled {
			all = append(all, now)
		}
		now, types, disabled = source{}, "", false
	}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			end()
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); strings.ToLower(name) {
		case "types":
			types = value
		case "uris":
			now.uris = strings.Fields(value)
		case "suites":
			now.suites = strings.Fields(value)
		case "enabled":
			disabled = value == "no"
		}
	}
	end()
	return all
}
