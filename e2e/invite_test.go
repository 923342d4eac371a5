//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"shoal/lab"
)

// The first agent says how to get the command by which others join, tells its log no secret, and listens to nobody until
// that was run. To everything else it is open when one has joined.
func TestHostsJoinByTheCommandThatTheFirstPrints(t *testing.T) {
	first, second := on(t, "invites"), on(t, "joins")
	first.StartAgent()
	first.ready()
	lab.Eventually(t, waitLimit, "it says how to get the command", func() error {
		if out := first.Agent().Output(); !strings.Contains(out, "shoal token create") {
			return errors.New(out)
		}
		return nil
	})
	first.listens()
	args := first.Invitation()
	first.listens("7947")
	second.StartAgent(args...)
	lab.AwaitNodes(t, first.Host, second.Host)
	first.listens("2379", "2380", "7946", "7947")
	for _, h := range []*host{first, second} {
		if out := h.Agent().Output(); strings.Contains(out, "SHOAL-1-") {
			t.Errorf("the log of %s holds a token: %s", h.Name(), out)
		}
	}
	if out, err := first.TryShoal("token", "rm", "wrong"); err == nil || !strings.Contains(err.Error()+out, "no join token") {
		t.Errorf("a token that does not exist was revoked: %v, %s", err, out)
	}
}

// A token in a file is not seen among the processes, and only the first start needs it.
func TestHostsJoinByATokenInAFile(t *testing.T) {
	first, second := on(t, "invites2"), on(t, "joins2")
	first.StartAgent()
	args := first.Invitation()
	i := slices.Index(args, "--token")
	token, file := args[i+1], filepath.Join(second.Dir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args[i], args[i+1] = "--token-file", file
	second.StartAgent(args...)
	lab.AwaitNodes(t, first.Host, second.Host)
	if ps := second.Exec("ps", "-eo", "args"); strings.Contains(ps, token) {
		t.Errorf("the token is seen:\n%s", ps)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	second.RestartAgent()
	lab.AwaitNodes(t, first.Host, second.Host)
}

// A lone host listens for others while there is a token, and no longer.
func TestHostsListenForOthersWhileThereIsAToken(t *testing.T) {
	h := on(t, "alone")
	h.StartAgent()
	h.ready()
	h.listens()
	h.Shoal("token", "create")
	h.listens("7947")
	h.RestartAgent()
	h.listens("7947")
	for _, id := range tokenID.FindAllString(h.Shoal("token", "ls"), -1) {
		h.Shoal("token", "rm", id)
	}
	h.listens()
}

var tokenID = regexp.MustCompile(`\b[0-9a-f]{12}\b`)

// listens waits until these are the TCP ports of the host's own address that it listens on, DNS aside.
func (h *host) listens(ports ...string) {
	h.t.Helper()
	lab.Eventually(h.t, waitLimit, fmt.Sprintf("%s listens on %q", h.Name(), ports), func() error {
		var found []string
		for line := range strings.Lines(h.Exec("ss", "-Hltn")) {
			if at, ok := strings.CutPrefix(strings.Fields(line)[3], h.Addr().String()+":"); ok {
				found = append(found, at)
			}
		}
		slices.Sort(found)
		if !slices.Equal(found, ports) {
			return fmt.Errorf("it listens on %q", found)
		}
		return nil
	})
}
