package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal/api"
)

// agentFile writes a file of settings and returns its path.
func agentFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheckShowsEachSettingWithItsSource(t *testing.T) {
	file := agentFile(t, "udp-timeout: 1m\n\njoin: [192.0.2.1, 192.0.2.2]\n")
	t.Setenv("SHOAL_ZONE", "env.internal")
	t.Setenv("SHOAL_TOKEN", "SHOAL-1-"+strings.Repeat("A", 52)+"-"+strings.Repeat("SECRET22", 4))
	t.Setenv("SHOAL_RUN_DIR", "/run/other")
	t.Setenv("SHOAL_DOCKER_HOST", "tcp://me:SECRET@192.0.2.1:2376")
	var out bytes.Buffer
	status, errors := called(t, &out, "agent", "--check", "--config", file, "--tcp-timeout", "3h", "--node", "a", "-o", "json")
	if status != 0 {
		t.Fatalf("exit status %d: %s", status, errors)
	}
	var all []api.Setting
	if err := json.Unmarshal(out.Bytes(), &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]api.Setting{}
	for _, s := range all {
		got[s.Name] = s
	}
	for _, want := range []api.Setting{
		{Name: "tcp-timeout", Value: "3h0m0s", Source: "flag"},
		{Name: "config", Value: file, Source: "flag"},
		{Name: "zone", Value: "env.internal", Source: "variable", Place: "SHOAL_ZONE"},
		{Name: "run-dir", Value: "/run/other", Source: "variable", Place: "SHOAL_RUN_DIR"},
		{Name: "token", Value: secretShown, Source: "variable", Place: "SHOAL_TOKEN"},
		{Name: "docker-host", Value: "tcp://(not shown)@192.0.2.1:2376", Source: "variable", Place: "SHOAL_DOCKER_HOST"},
		{Name: "udp-timeout", Value: "1m0s", Source: "file", Place: file + ":1"},
		{Name: "join", Value: "192.0.2.1,192.0.2.2", Source: "file", Place: file + ":3"},
		{Name: "dns", Value: "10.96.0.10", Source: "default"},
		{Name: "dns-peers", Value: "10.96.0.11", Source: "default"},
	} {
		if got[want.Name] != want {
			t.Errorf("%+v, want %+v", got[want.Name], want)
		}
	}
	if strings.Contains(out.String(), "SECRET") {
		t.Errorf("the token is shown:\n%s", out.String())
	}
	for _, name := range []string{"help", "check", "output"} {
		if _, is := got[name]; is {
			t.Errorf("--%s is no setting", name)
		}
	}
}

func TestCheckTellsAllMistakesAndNothingThatFollowsFromThem(t *testing.T) {
	file := agentFile(t, "udp-timeout: soon\nzoen: a\nnode: Not_A_Label\n")
	t.Setenv("SHOAL_POOL", "ten")
	t.Setenv("SHOAL_ZNOE", "a")
	status, errors := called(t, &bytes.Buffer{}, "agent", "--check", "--config", file, "--tcp-timeout", "never", "--repair", "2h",
		"--dns", "10.200.0.10", "--log-level", "loud", "--etcd-ca", "/nonexistent/ca.pem")
	if status != 2 {
		t.Errorf("exit status %d", status)
	}
	for _, says := range []string{
		"--tcp-timeout never", "SHOAL_POOL \"ten\"", "SHOAL_ZNOE", file + ":1: udp-timeout \"soon\"", file + ":2", "did you mean zone", "--node",
		"--repair 2h", "--log-level", "need --etcd", "/nonexistent/ca.pem",
	} {
		if !strings.Contains(errors, says) {
			t.Errorf("it does not say %q:\n%s", says, errors)
		}
	}
	if n := strings.Count(errors, "pool"); n > 0 || strings.Contains(errors, "--udp-timeout") {
		t.Errorf("what cannot be read is told twice, or what follows from it:\n%s", errors)
	}
}

func TestAnUnknownFlagHidesNoOtherMistake(t *testing.T) {
	t.Setenv("SHOAL_POOL", "ten")
	status, errors := called(t, &bytes.Buffer{}, "agent", "--check", "--nosuch", "--config", agentFile(t, ""))
	if status != 2 || !strings.Contains(errors, "--nosuch") || !strings.Contains(errors, "SHOAL_POOL") {
		t.Errorf("exit status %d: %s", status, errors)
	}
}

func TestTheAgentsSettingsAreListed(t *testing.T) {
	dir := anAgent(t, func(mux *http.ServeMux) {
		mux.HandleFunc("GET /v1/settings", func(w http.ResponseWriter, _ *http.Request) {
			json.NewEncoder(w).Encode([]api.Setting{
				{Name: "zone", Value: "a.internal", Source: "file", Place: "/etc/shoal/agent.yaml:7"}, {Name: "upstream", Source: "default"},
			})
		})
	})
	var out bytes.Buffer
	if status, errors := called(t, &out, "settings", "--run-dir", dir); status != 0 {
		t.Fatalf("exit status %d: %s", status, errors)
	}
	const want = "SETTING    VALUE        SOURCE\nzone       a.internal   file /etc/shoal/agent.yaml:7\nupstream   -            default\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}
