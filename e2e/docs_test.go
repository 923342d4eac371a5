//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/lab"
)

// TestDocsCommandsWork runs the commands of the documentation that are marked as such: blocks that begin with ```sh. They
// run as they stand, one after the other, on a host with an agent and the image that the documentation names.
func TestDocsCommandsWork(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, page := range append(pages, "../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		commands := shellCommands(string(text))
		if len(commands) == 0 {
			continue
		}
		ran += len(commands)
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Cleanup(func() { // after the containers: other tests count on names that nobody has
				lab.Eventually(t, waitLimit, "the services of the page are forgotten", func() error {
					_, err := on(t, "a").TryShoal("service", "rm", "default/web")
					return err
				})
			})
			h := home(t)
			h.hasMesh() // that of another state was there, if the test before had one
			h.Docker("tag", lab.Image, "shoal/whoami")
			h.Docker("tag", lab.Image, "busybox")
			for _, command := range commands {
				h.follow(command)
			}
		})
	}
	if ran == 0 {
		t.Error("no page has commands")
	}
}

// follow runs a command of the documentation. A reader may type one that asks before the agent knows the answer, and
// types it again.
func (h *host) follow(command string) {
	h.t.Helper()
	if strings.HasPrefix(command, "docker run -d ") || strings.HasPrefix(command, "shoal stop ") {
		h.t.Logf("%s\n%s", command, h.Exec("sh", "-c", command))
		return
	}
	lab.Eventually(h.t, waitLimit, command, func() error {
		out, err := h.TryExec("sh", "-c", command)
		if command == "shoal check" && code(err) == 1 { // warnings of this host
			err = nil
		}
		if err == nil {
			h.t.Logf("%s\n%s", command, out)
		}
		return err
	})
}

// shellCommands are the lines of a page's blocks of shell.
func shellCommands(page string) (all []string) {
	inside := false
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```sh"
		case inside && line != "":
			all = append(all, line)
		}
	}
	return all
}
