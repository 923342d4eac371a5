package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"shoal/api"
	"shoal/internal/printable"
	"shoal/model"
)

// anAgent serves what some commands ask for, and returns the folder of its socket.
func anAgent(t *testing.T, more func(*http.ServeMux)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shoal")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", api.Socket(dir))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	answer := func(path string, v any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(v) })
	}
	services := []api.ServiceView{{ID: "shop/web", Ports: []model.Port{{Port: 80, Target: 8000, Protocol: model.TCP}}}, {ID: "default/db"}}
	mux.HandleFunc("GET /v1/services", func(w http.ResponseWriter, r *http.Request) {
		switch r.FormValue("name") {
		case "":
			api.Reply(w, services, nil)
		case "web":
			api.Reply(w, services[:1], nil)
		default:
			api.Reply(w, nil, api.ErrNotFound)
		}
	})
	answer("/v1/tokens", []api.TokenInfo{{ID: "3f2a7c"}})
	answer("/v1/nodes", []api.NodeView{{Node: model.Node{Name: "alpha"}}})
	if more == nil {
		mux.HandleFunc("GET /v1/tasks", func(w http.ResponseWriter, r *http.Request) {
			if name := r.FormValue("service"); name != "" && name != "web" {
				api.Reply(w, nil, fmt.Errorf("%w: %s", api.ErrNotFound, name))
				return
			}
			api.Reply(w, []api.TaskView{{Service: "shop/web", Name: "web-1", State: model.Starting, Reason: "waits until it listens on a port"}}, nil)
		})
	} else {
		more(mux)
	}
	mux.HandleFunc("DELETE /v1/nodes/{name}", func(w http.ResponseWriter, _ *http.Request) {
		api.Reply(w, nil, api.ErrNotFound)
	})
	for _, unknown := range []string{"DELETE /v1/services", "DELETE /v1/tokens/{id}"} {
		mux.HandleFunc(unknown, func(w http.ResponseWriter, r *http.Request) { api.Reply(w, nil, api.ErrNotFound) })
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux}}
	s.Start()
	t.Cleanup(s.Close)
	return dir
}

// called runs the command, and returns its exit status and what it wrote.
func called(t *testing.T, out io.Writer, args ...string) (status int, errors string) {
	t.Helper()
	var b bytes.Buffer
	defer func(was *printable.Writer) { stderr = was }(stderr)
	stderr = printable.NewWriter(&b)
	status = run(t.Context(), args, out, false)
	return status, b.String()
}

func TestMistakesAreToldWithWhatMayBeMeant(t *testing.T) {
	dir := anAgent(t, nil)
	t.Setenv("SHOAL_RUN_DIR", dir)
	inGo := regexp.MustCompile(`strconv|netip|ParseAddr|ParsePrefix|time: |api\.|model\.|agent\.|unmarshal`)
	for _, test := range []struct{ args, env, says string }{
		{"servics", "", "did you mean"},
		{"nod", "", "did you mean node"},
		{"node", "", "shoal node wants a command"},
		{"node lss", "", "did you mean ls?"},
		{"token creat", "", "did you mean create?"},
		{"node rm alhpa", "", "not found; did you mean alpha?"},
		{"tasks shop/wep", "", "did you mean shop/web?"},
		{"tasks wep", "", "did you mean shop/web?"},
		{"services wep.shop", "", "did you mean shop/web?"},
		{"service rm wep", "", "did you mean shop/web?"},
		{"token rm 3f2b7c", "", "did you mean 3f2a7c?"},
		{"tasks Not_A_Label", "", "Not_A_Label"},
		{"tasks a b", "", "takes one SERVICE"},
		{"services a b", "", "takes one SERVICE"},
		{"nodes extra", "", "extra"},
		{"services --wach", "", "did you mean --watch?"},
		{"services -z", "", "no flag -z"},
		{"services -o jsn", "", "use table, wide, json"},
		{"agent --pool ten", "", "--pool ten: use a network like 10.96.0.0/16"},
		{"agent --dns ten", "", "--dns ten: use an address like"},
		{"agent --repair soon", "", "--repair soon: use a duration like"},
		{"agent --vxlan-port 70000", "", "--vxlan-port 70000: use a number from 0 to 65535"},
		{"agent --subnet-bits few", "", "use a whole number"},
		{"agent --subnet-pool ten", "", "use networks like"},
		{"agent --flat-names=perhaps", "", "use true or false"},
		{"check", "SHOAL_REPAIR=soon", `SHOAL_REPAIR "soon": use a duration like`},
		{"services", "SHOAL_ZNOE=a", "no setting is called SHOAL_ZNOE; did you mean SHOAL_NODE or SHOAL_ZONE?"},
		{"token create --uses many", "", "use a whole number"},
	} {
		t.Run(test.args+" "+test.env, func(t *testing.T) {
			if name, value, ok := strings.Cut(test.env, "="); ok {
				t.Setenv(name, value)
			}
			status, errors := called(t, io.Discard, strings.Fields(test.args)...)
			if status != 2 || !strings.Contains(errors, test.says) {
				t.Errorf("exit status %d, want 2, and %q: %s", status, test.says, errors)
			}
			if inGo.MatchString(errors) {
				t.Errorf("it speaks of Go's own: %s", errors)
			}
		})
	}
}

func TestOneServiceIsListed(t *testing.T) {
	dir := anAgent(t, nil)
	for args, says := range map[string]string{"tasks web": "waits until it listens on a port", "services web": "shop/web"} {
		var out bytes.Buffer
		if status, errors := called(t, &out, append(strings.Fields(args), "--run-dir", dir)...); status != 0 || !strings.Contains(out.String(), says) || strings.Contains(out.String(), "db") {
			t.Errorf("shoal %s: exit status %d, %s, and without %q or with more:\n%s", args, status, errors, says, out.String())
		}
	}
}

func TestWrongKeysOfTheFileHaveSuggestions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte("repiar: 5s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	status, errors := called(t, io.Discard, "check", "--config", file)
	if status != 2 || !strings.Contains(errors, "did you mean repair?") {
		t.Errorf("exit status %d: %s", status, errors)
	}
}

func TestNamesAreCompleted(t *testing.T) {
	dir := anAgent(t, func(mux *http.ServeMux) {
		answer := func(path string, v any) {
			mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(v) })
		}
		answer("/v1/status", api.Status{Node: "alpha"})
		publishes := api.SpecView{Spec: model.Spec{Publish: []model.PublishedPort{{Published: 8080, Target: 80, Protocol: model.TCP}, {Published: 53, Target: 53, Protocol: model.UDP}}}}
		answer("/v1/tasks", []api.TaskView{{Service: "shop/web", Name: "web-1", Node: "alpha", Spec: publishes}, {Service: "shop/web", Name: "web-2", Node: "beta", Spec: publishes}})
	})
	for args, want := range map[string]string{
		"tasks ":            "shop/web\ndefault/db\n",
		"services ":         "shop/web\ndefault/db\n",
		"node rm ":          "alpha\n",
		"stop ":             "web-1\n",
		"stop web-1 ":       "",
		"trace --from ":     "web-1\nweb-2\n",
		"trace ":            "shop/web\ndefault/db\nweb-1\nweb-2\n",
		"trace :":           ":53/udp\n:8080\n",
		"explain shop/web:": "shop/web:80\n",
		"explain alpha:8":   "alpha:8080\n",
		"dns ":              "shop/web\ndefault/db\n",
		"agent --backend ":  "auto\nhost-gw\nvxlan\nipip\n",
	} {
		words := append([]string{"__completeNoDesc", "--run-dir", dir}, strings.Split(args, " ")...)
		var out bytes.Buffer
		if status, errors := called(t, &out, words...); status != 0 || !strings.HasPrefix(out.String(), want+":") {
			t.Errorf("%q is completed by %q (exit status %d, %s), want %q", args, out.String(), status, errors, want)
		}
	}
	// Nobody answers: nothing, and nothing said.
	var out bytes.Buffer
	if _, errors := called(t, &out, "__completeNoDesc", "--run-dir", t.TempDir(), "tasks", ""); !strings.HasPrefix(out.String(), ":") || strings.Contains(errors, "no agent") {
		t.Errorf("without an agent: %q, %q", out.String(), errors)
	}
}
