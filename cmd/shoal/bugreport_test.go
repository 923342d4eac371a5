package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"shoal/api"
	"shoal/model"
)

const aToken = "SHOAL-1-abcdefgh234567-zyxwvu765432"

func TestSecretsAreTakenOut(t *testing.T) {
	for text, want := range map[string]string{
		"nothing to hide":                                                       "nothing to hide",
		"join with " + aToken + ", then":                                        "join with SHOAL-1-REDACTED, then",
		`{"password":"hunter2","port":1}`:                                       `{"password":"REDACTED","port":1}`,
		`msg="{\"db_password\":\"hunter2\"}`:                                    `msg="{\"db_password\":\"REDACTED\"}`,
		"DB_PASSWORD=hunter2 PATH=/bin":                                         "DB_PASSWORD=REDACTED PATH=/bin",
		"my-api-key: hunter2":                                                   "my-api-key: REDACTED",
		"https://me:hunter2@etcd:2379/x":                                        "https://REDACTED@etcd:2379/x",
		"https://etcd:2379/x":                                                   "https://etcd:2379/x",
		"Authorization: Bearer hunter2hunter2":                                  "Authorization: REDACTED REDACTED",
		"shoal agent --token hunter2 --zone x":                                  "shoal agent --token REDACTED --zone x",
		"http://192.0.2.1:7480/#token=hunter2":                                  "http://192.0.2.1:7480/#token=REDACTED",
		"-----BEGIN EC PRIVATE KEY-----\nhunter2\n-----END EC PRIVATE KEY-----": "-----BEGIN EC PRIVATE KEY-----REDACTED-----END EC PRIVATE KEY-----",
	} {
		r := &redactor{}
		if got := r.text(text); got != want || strings.Contains(got, "hunter2") || (r.summary() == "") != (got == text) {
			t.Errorf("%q became %q (%s), want %q", text, got, r.summary(), want)
		}
	}
}

func TestTheFileOfSettingsIsToldWithoutSecrets(t *testing.T) {
	r := &redactor{}
	got := r.fileText(map[string]inFile{
		"zone": {value: "mesh.internal"}, "tokn": {value: "hunter2"}, "token": {value: "hunter2"}, "etcd": {value: "https://me:hunter2@e:2379"}, "run-dir": {value: "/run/other"},
	})
	want := `etcd: https://REDACTED@e:2379
run-dir: /run/other
token: REDACTED
tokn: REDACTED
zone: mesh.internal
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if want := "1 × join token, 1 × password in an address, 1 × value of an unknown setting"; r.summary() != want {
		t.Errorf("%s, want %s", r.summary(), want)
	}
}

// unpacked are the files of a report, by name less its folder.
func unpacked(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for from := tar.NewReader(zip); ; {
		h, err := from.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(from)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		files[name] = string(text)
	}
}

func TestABugReportHoldsWhatTheAgentTellsWithoutSecrets(t *testing.T) {
	dir := anAgent(t, func(mux *http.ServeMux) {
		answer := func(path string, v any) {
			mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(v) })
		}
		answer("/v1/status", api.Status{Node: "alpha"})
		answer("/v1/settings", []api.Setting{
			{Name: "zone", Value: "a.internal", Source: "file", Place: "/srv/agent.yaml:7"}, {Name: "docker-host", Value: "tcp://192.0.2.7:2375", Source: "variable", Place: "SHOAL_DOCKER_HOST"},
		})
		answer("/v1/tasks", []api.TaskView{{Name: "web-1"}})
		answer("/v1/cluster/problems", []model.Problem{{Code: model.HostDead, Reason: "join with " + aToken}})
		answer("/v1/explain", api.Explanation{Steps: []api.Step{{What: "rules", Kernel: true, Evidence: "chain vip"}}})
		mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "shoal_tasks 3\n") })
	})
	file := filepath.Join(t.TempDir(), "report.tar.gz")
	var out bytes.Buffer
	if status, wrong := called(t, &out, "bugreport", file, "--run-dir", dir); status != 0 {
		t.Fatalf("%d: %s", status, wrong)
	}
	files := unpacked(t, file)
	for name, says := range map[string]string{
		"version.json": api.Version, "status.json": "alpha", "problems.json": "SHOAL-1-REDACTED", "nodes.json": "alpha", "services.json": "shop/web",
		"settings.txt": "file /srv/agent.yaml:7", "tasks.json": "web-1", "metrics.txt": "shoal_tasks 3", "explain/shop-web.json": "chain vip", "host.txt": "Linux", "README.txt": "events.json",
	} {
		if !strings.Contains(files[name], says) {
			t.Errorf("%s does not say %s: %q", name, says, files[name])
		}
	}
	if _, there := files["events.json"]; there || !strings.Contains(out.String(), "join token") || !strings.Contains(out.String(), file) {
		t.Errorf("events that no agent told; or it does not say what was taken out:\n%s", out.String())
	}
	if !strings.Contains(out.String(), "the engine at tcp://192.0.2.7:2375 is not asked") {
		t.Errorf("the engine is not the one that the agent uses:\n%s", out.String())
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v %v", info.Mode(), err)
	}
}

func TestABugReportWithoutAnAgentHasTheFileAndTheKernel(t *testing.T) {
	t.Chdir(t.TempDir())
	tools := t.TempDir() // in the place of those of the system
	for name, script := range map[string]string{
		"iptables-save": "echo '-A SHOAL-X -m comment --comment password=hunter2'",
		"ip":            "echo ip $*",
		"nft":           "echo 'Operation not permitted' >&2; exit 1",
	} {
		if err := os.WriteFile(filepath.Join(tools, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", tools)
	config := agentFile(t, "zone: other.internal\ntoken: hunter2\nrun-dir: "+t.TempDir()+"\n")
	var out bytes.Buffer
	if status, wrong := called(t, &out, "bugreport", "-o", "json", "--config", config); status != 0 {
		t.Fatalf("%d: %s", status, wrong)
	}
	var r bugReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	files := unpacked(t, r.File)
	if files["version.json"] == "" || !strings.HasPrefix(r.File, "shoal-") {
		t.Errorf("%s has %v", r.File, files)
	}
	for name, says := range map[string]string{
		"settings.txt": "zone: other.internal", "kernel/iptables.txt": "-A SHOAL-X", "kernel/rules.txt": "ip -d rule", "kernel/routes.txt": "ip -d route show table all",
		"kernel/links.txt": "ip -d -s link", "kernel/sysctl.txt": "net/ipv4/ip_forward = ",
		"README.txt": "nft -s list table ip shoal: Operation not permitted",
	} {
		if !strings.Contains(files[name], says) {
			t.Errorf("%s does not say %q: %q", name, says, files[name])
		}
	}
	if says := files["settings.txt"]; !strings.Contains(says, "no agent runs") || !strings.Contains(says, config) {
		t.Errorf("the settings do not say whose they are:\n%s", says)
	}
	if !strings.Contains(files["README.txt"], "ipset is not installed") || files["kernel/nft.txt"] != "" {
		t.Errorf("it does not say what it lacks:\n%s", files["README.txt"])
	}
	for name, text := range files {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "tcp_fastopen_key") {
			t.Errorf("%s has a secret:\n%s", name, text)
		}
	}
	i := slices.IndexFunc(r.Parts, func(p reportPart) bool { return p.Name == "tasks.json" })
	if i < 0 || !strings.Contains(r.Parts[i].Missing, "no agent runs") || files["tasks.json"] != "" || !strings.Contains(files["README.txt"], "no agent runs") {
		t.Errorf("the parts are %+v", r.Parts)
	}
}

func TestWhatLacksTasksIsExplainedFirst(t *testing.T) {
	services := []api.ServiceView{{ID: "s/a", Tasks: 1, InRotation: 1}, {ID: "s/b", Tasks: 2, InRotation: 1}, {ID: "s/c"}}
	if got := explained(services); !slices.Equal(got, []string{"s/b", "s/c", "s/a"}) {
		t.Errorf("explained are %v", got)
	}
	if got := explained(make([]api.ServiceView, 100)); len(got) != mostExplained {
		t.Errorf("%d are explained", len(got))
	}
}
