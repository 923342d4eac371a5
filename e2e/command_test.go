//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
	"shoal/lab/kernel"
)

// code is the exit code of a command, by its error.
func code(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// TestWrongSettings: each is told, by whatever way it came, and ends the agent with 2.
func TestWrongSettings(t *testing.T) {
	h := home(t)
	file := filepath.Join(h.Dir(), "agent.yaml")
	for _, test := range []struct {
		command string
		file    string
		says    string
	}{
		{"shoal agent --repair 1ms", "", "--repair 1ms"},
		{"shoal agent --pool 10.96.0.1/16", "", "10.96.0.0/16"},
		{"shoal agent --pool ten", "", "--pool"},
		{"shoal agent --dns 10.97.0.10", "", "must lie in the pool"},
		{"shoal agent --zone not_a_zone", "", "--zone"},
		{"shoal agent --upstream resolver", "", "--upstream"},
		{"shoal agent --tcp-timeout 100ms", "", "--tcp-timeout"},
		{"shoal agent --socket-balancing on", "", "use auto"},
		{"env SHOAL_SOCKET_CGROUP=/proc shoal agent --socket-balancing auto", "", "/proc is no control group"},
		{"shoal agent --log-level loud", "", "--log-level"},
		{"shoal agent --nosuch", "", "--nosuch"},
		{"shoal agent here", "", "here"},
		{"shoal agent --docker-host nowhere", "", "nowhere"},
		// What the host routes already: its Docker network, its own.
		{"shoal agent --pool 10.101.0.0/24 --dns 10.101.0.10", "", "docker0"},
		{"shoal agent --pool 192.168.0.0/16 --dns 192.168.0.10", "", "192.168.77.0/24"},
		{"env SHOAL_TCP_TIMEOUT=soon shoal agent", "", "SHOAL_TCP_TIMEOUT"},
		{"env SHOAL_NODE=Not_A_Label shoal agent", "", "Not_A_Label"},
		{"shoal agent --config " + file, "repiar: 5s\n", `"repiar"`},
		{"shoal agent --config " + file, "udp-timeout: often\n", "udp-timeout"},
		{"shoal agent --config " + file, "- repair\n", "agent.yaml"},
		{"env SHOAL_CONFIG=/nowhere.yaml shoal agent", "", "/nowhere.yaml"},
		{"shoal explain", "", "SERVICE, CONTAINER"},
		{"shoal tasks a b", "", "takes one"},
		{"shoal status -o xml", "", "use table, wide, json"},
		{"shoal service rm Not_A_Label", "", "Not_A_Label"},
		{"shoal service rm nosuch.shop", "", "not found"},
		{"shoal services nosuch", "", "no service is called"},
		{"shoal token rm nosuch", "", "no join token"},
		{"env SHOAL_TCP_TIMEOUT=soon shoal agent --check --dns 10.97.0.10", "", "must lie in the pool"},
		{"env SHOAL_TCP_TIMEOUT=soon shoal agent --check --dns 10.97.0.10", "", "SHOAL_TCP_TIMEOUT"},
	} {
		if err := os.WriteFile(file, []byte(test.file), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := h.TryExec(append([]string{"timeout", "20"}, strings.Fields(test.command)...)...)
		if code(err) != 2 || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s (file: %q): want exit code 2 and %q: %v", test.command, test.file, test.says, err)
		}
	}
}

// TestWhereSettingsComeFrom: flags win over variables, variables over the file, the file over what nobody set.
func TestWhereSettingsComeFrom(t *testing.T) {
	h := home(t)
	file := filepath.Join(h.Dir(), "docker-config.yaml")
	if err := os.WriteFile(file, []byte("zone: file.internal\ndns: 10.96.0.20\nupstream: [192.0.2.1, 192.0.2.2]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	type daemon struct {
		DNS    []string `json:"dns"`
		Search []string `json:"dns-search"`
	}
	for _, test := range []struct{ command, dns, zone string }{
		{"shoal docker-config", dnsServer, "mesh.internal"},
		{"shoal docker-config --config " + file, "10.96.0.20", "file.internal"},
		{"env SHOAL_ZONE=env.internal shoal docker-config --config " + file, "10.96.0.20", "env.internal"},
		{"env SHOAL_ZONE=env.internal SHOAL_CONFIG=" + file + " shoal docker-config --zone flag.internal", "10.96.0.20", "flag.internal"},
	} {
		got := jsonOf[daemon](t, h.Exec(strings.Fields(test.command)...))
		if len(got.DNS) != 2 || got.DNS[0] != test.dns || len(got.Search) != 1 || got.Search[0] != test.zone {
			t.Errorf("%s: %+v, want %s and %s", test.command, got, test.dns, test.zone)
		}
	}
}

// TestOneAgentAHost: a second is refused, and does the first no harm.
func TestOneAgentAHost(t *testing.T) {
	h := home(t)
	_, err := h.TryExec("timeout", "20", "shoal", "agent", "--state-dir", filepath.Join(h.Dir(), "second"), "--docker-host", "unix://"+h.DockerSocket())
	if code(err) != 1 || !strings.Contains(err.Error(), "already runs") {
		t.Errorf("a second agent: %v", err)
	}
	if s, err := ask[status](h, "status"); err != nil || s.Engine != "connected" {
		t.Errorf("the first: %+v %v", s, err)
	}
}

// TestAnAgentThatStartsSaysSo: a command does not hang on one that waits, here for an etcd that is not there.
func TestAnAgentThatStartsSaysSo(t *testing.T) {
	h := on(t, "starts")
	run := filepath.Join(h.Dir(), "starting")
	p := h.Start("shoal", "agent", "--state-dir", filepath.Join(run, "state"), "--run-dir", run,
		"--docker-host", "unix://"+h.DockerSocket(), "--etcd", "https://192.0.2.1:2379")
	defer func() {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := p.Wait(waitLimit); code(err) < 0 {
			t.Errorf("told to stop: %v\n%s", err, p.Output())
		}
	}()
	lab.Eventually(t, 3*waitLimit, "the agent's state is told", func() error {
		_, err := h.TryExec("timeout", "20", "shoal", "status", "--run-dir", run)
		if code(err) != 2 || !strings.Contains(err.Error(), "the agent starts, and waits for the etcd at https://192.0.2.1:2379") {
			return fmt.Errorf("shoal status: %w", err)
		}
		return nil
	})
}

// TestSocketIsForRoot and nobody else.
func TestSocketIsForRoot(t *testing.T) {
	h := home(t)
	info, err := os.Stat(h.AgentSocket())
	if err != nil {
		t.Fatal(err)
	}
	if stat := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != 0o600 || stat.Uid != 0 || stat.Gid != 0 {
		t.Errorf("the socket is %v of %d:%d", info.Mode(), stat.Uid, stat.Gid)
	}
}

// TestNotRoot: one sentence that says what to do.
func TestNotRoot(t *testing.T) {
	h := home(t)
	path := h.Exec("sh", "-c", "command -v shoal")
	// Not root, but able to find the program wherever it is.
	nobody := []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
		"--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search", path}
	for _, command := range [][]string{{"agent", "--state-dir", "/nowhere", "--run-dir", "/nowhere"}, {"down"}} {
		_, err := h.TryExec(append(nobody, command...)...)
		if code(err) != 1 || strings.Count(err.Error(), "shoal:") != 1 || !strings.Contains(err.Error(), "needs root: run it with sudo") {
			t.Errorf("shoal %v as nobody: %v", command, err)
		}
	}
	_, err := h.TryExec("shoal", "status", "--run-dir", "/nowhere")
	if code(err) != 2 || !strings.Contains(err.Error(), "no agent runs on this host") {
		t.Errorf("status without an agent: %v", err)
	}
}

// TestKernelWithoutIPVS: an agent that is to use IPVS says what the kernel lacks. One that has it is hidden: without /proc
// no module is there.
func TestKernelWithoutIPVS(t *testing.T) {
	h := home(t)
	path, dir := h.Exec("sh", "-c", "command -v shoal"), filepath.Join(h.Dir(), "blind")
	start := `SHOAL_DATA_PLANE=ipvs exec "$0" agent --run-dir "$1" --state-dir "$1"`
	if lab.Plane() == kernel.IPVS {
		start = "mount -t tmpfs none /proc && " + start
	}
	_, err := h.TryExec("timeout", "20", "unshare", "--mount", "sh", "-c", start, path, dir)
	if code(err) != 2 || strings.Count(err.Error(), "shoal:") != 1 || !strings.Contains(err.Error(), "this kernel has no ip_vs") || !strings.Contains(err.Error(), "run `modprobe ip_vs`") {
		t.Errorf("an agent that sees no ip_vs: %v", err)
	}
}

// TestCompletion: what a shell's completion asks is answered.
func TestCompletion(t *testing.T) {
	h := home(t)
	if out := h.Shoal("__complete", "exp"); !strings.Contains(out, "explain\t") {
		t.Errorf("exp is completed by %q", out)
	}
	if out := h.Shoal("completion", "bash"); !strings.Contains(out, "complete -o default") || !strings.Contains(out, "shoal") {
		t.Errorf("the script for bash: %.200s", out)
	}
}

// TestJSON: what a command prints with -o json is JSON, of what its table tells.
func TestJSON(t *testing.T) {
	h := home(t)
	h.run("data", "-l shoal.service=data -l shoal.ports=http:80:8000")
	h.run("wrong", "-l shoal.service=data -l shoal.weight=-1", "sleep", "1000000")
	h.answered("http://"+h.vip("data")+"/", "data")
	h.problem("wrong", "labels-invalid")
	for _, test := range []struct{ command, table, json string }{
		{"status", "connected", `"health": "degraded"`},
		{"settings", "resolv-conf", `"source": "default"`},
		{"services data", "default/data", `"id": "default/data"`},
		{"services", "default/data", `"id": "default/data"`},
		{"tasks", "running", `"state": "running"`},
		{"tasks data", "running", `"name": "data"`},
		{"problems", "labels-invalid", `"code": "labels-invalid"`},
		{"explain default/data", "labels right", `"ok": false`},
		{"dns data", h.vip("data"), h.vip("data")},
		{"dns --from data _http._tcp.data", "data.default.mesh.internal", "data.default.mesh.internal"},
		{"version", "shoal", `"version"`},
		{"docker-config", `"dns"`, `"dns"`},
	} {
		args := strings.Fields(test.command)
		ends := map[string]int{"status": 1, "explain": 1}[args[0]] // the container with a mistake
		if out, err := h.TryShoal(args...); code(err) != ends || !strings.Contains(out, test.table) {
			t.Errorf("shoal %s ends with %v, or does not say %s:\n%s", test.command, err, test.table, out)
		}
		out, err := h.TryShoal(append(args, "-o", "json")...)
		if code(err) != ends {
			t.Errorf("shoal %s -o json: %v", test.command, err)
		}
		if !json.Valid([]byte(out)) || !strings.Contains(out, test.json) {
			t.Errorf("shoal %s -o json: want JSON with %s:\n%s", test.command, test.json, out)
		}
	}
	h.Docker("rm", "-f", "data")
	h.task("data", "")
	if out := h.Shoal("service", "rm", "data", "-o", "json"); !json.Valid([]byte(out)) {
		t.Errorf("service rm: %s", out)
	}
}

// TestExplainReadsTheKernel breaks one thing after the other, on a host whose agent will not repair it in time, and has
// explain say at which step the way to the task ends.
func TestExplainReadsTheKernel(t *testing.T) {
	h := on(t, "b")
	t.Cleanup(h.clear)
	startFresh := func() {
		t.Helper()
		if _, err := ask[status](h, "status"); err == nil {
			h.KillAgent(syscall.SIGTERM)
		}
		h.StartAgent("--repair", "1h")
		h.ready()
	}
	startFresh()
	t.Cleanup(func() {
		h.KillAgent(syscall.SIGTERM)
		h.Shoal("down", "--state-dir", filepath.Join(h.Dir(), "state"))
	})
	h.run("told", "-l shoal.service=told -l shoal.ports=80:8000")
	h.answered("http://"+h.vip("told")+"/", "told")
	explain := func() explanation {
		t.Helper()
		out, err := h.TryShoal("explain", "told", "-o", "json")
		e := jsonOf[explanation](t, out)
		if want := map[bool]int{true: 0, false: 1}[e.OK]; code(err) != want {
			t.Errorf("explain ended with %v, want %d", err, want)
		}
		return e
	}
	for _, breakage := range thePlane().explained {
		command, step := breakage[0], breakage[1]
		if e := explain(); !e.OK || e.Verdict != "" {
			t.Fatalf("a service that works: %+v", e)
		}
		h.Exec(strings.Fields(command)...)
		e := explain()
		if e.OK || step != "" && !strings.HasPrefix(e.Verdict, step+": ") {
			t.Errorf("after %s: want it to stop at %q: %+v", command, step, e)
		}
		startFresh()
		h.answered("http://"+h.vip("told")+"/", "told")
	}

	// The task itself: there, in rotation, but nobody listens.
	h.run("deaf", "-l shoal.service=deaf -l shoal.ports=80:8000", "sleep", "1000000")
	h.vip("deaf")
	lab.Eventually(t, waitLimit, "explain finds nobody listening", func() error {
		_, err := h.TryShoal("explain", "deaf")
		if code(err) != 1 || !strings.Contains(err.Error(), "task: deaf on b: port 80, which is the task's 8000: nothing listens") {
			return errors.New("explain deaf: " + errorText(err))
		}
		return nil
	})
	if _, err := h.TryShoal("explain", "nosuch"); code(err) != 1 || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("explain of what is not there: %v", err)
	}
}

func errorText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// TestMetrics makes requests and questions, and finds them counted.
func TestMetrics(t *testing.T) {
	h := home(t)
	h.run("counted", "-l shoal.service=counted", everything(t)...)
	url := h.web("counted")
	h.answered(url, "counted")
	before := h.metrics()
	h.load("--count", "25", url)
	h.load("--count", "25", "udp://"+h.vip("counted")+":9000") // where the data plane carries these, IPVS counts bytes
	for range 3 {
		h.client().dig("counted.mesh.internal")
	}
	via := func(carrier string) string {
		return fmt.Sprintf(`shoal_service_connections_total{service="counted",stack="default",via="%s"}`, carrier)
	}
	grown := map[string]float64{
		`shoal_dns_queries_total{kind="own"}`:        3,
		`shoal_dns_responses_total{rcode="NOERROR"}`: 3,
	}
	switch {
	case lab.SocketBalancing():
		grown[via("connect")] = 25 // by TCP; the kernel may lead no UDP
	case thePlane().counts:
		grown[`shoal_service_received_bytes_total{service="counted",stack="default"}`] = 25 * 30
		grown[`shoal_service_sent_bytes_total{service="counted",stack="default"}`] = 25 * 30
	}
	after := before
	// The kernel adds the counters of IPVS up every two seconds.
	lab.Eventually(t, waitLimit, "all is counted", func() error {
		after = h.metrics()
		for name, want := range grown {
			if got := after[name] - before[name]; got < want {
				return fmt.Errorf("%s grew by %v, want %v", name, got, want)
			}
		}
		if got := after[via("connect")] - before[via("connect")] + after[via("plane")] - before[via("plane")]; got < 50 {
			return fmt.Errorf("%v connections were counted, want 50", got)
		}
		return nil
	})
	if _, leads := sum(after, "shoal_socket_map_entries"); leads != lab.SocketBalancing() {
		t.Errorf("the sizes of connect()'s maps are told: %v", leads)
	}
	if lab.SocketBalancing() {
		for name, least := range map[string]float64{"services": 2, "slots": 2, "backends": 0, "affinity": 0, "peers": 0} {
			size, there := after[`shoal_socket_map_entries{map="`+name+`"}`]
			limit := after[`shoal_socket_map_entries_limit{map="`+name+`"}`]
			if !there || size < least || size >= limit {
				t.Errorf("the map %s has %v entries of %v, there: %v; want %v at least", name, size, limit, there, least)
			}
		}
	}
	for _, name := range []string{"shoal_build_info", "shoal_tasks", "shoal_reconcile_duration_seconds_count", "shoal_kernel_writes_total", "shoal_snapshot_revision", "process_resident_memory_bytes"} {
		if v, found := sum(after, name); !found || v <= 0 {
			t.Errorf("%s: %v, there: %v", name, v, found)
		}
	}
}

// TestEvents follows what happens while tasks start, are stopped and end by themselves.
func TestEvents(t *testing.T) {
	h := home(t)
	service := fmt.Sprintf("seen%d", time.Now().UnixNano()) // one that this agent has not had yet
	p := h.Start("shoal", "events", "--since", "1m", "-o", "json")
	t.Cleanup(func() {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := p.Wait(waitLimit); err != nil {
			t.Errorf("told to stop: %v\n%s", err, p.Output())
		}
	})
	h.run("seen", "-l shoal.service="+service)
	h.answered(h.web(service), "seen")
	h.Docker("stop", "seen")
	h.run("brief", "-l shoal.ready=none -l shoal.service="+service, "sleep", "3")
	wanted := []string{
		"service-added ", "task-started seen", "task-in-rotation seen", "task-left seen: it was told to stop",
		"task-started brief", "task-in-rotation brief", "task-died brief: it ended by itself, with exit code 0",
	}
	lab.Eventually(t, waitLimit, "all is told", func() error {
		left := wanted
		for line := range strings.Lines(p.Output()) {
			var e struct{ APIVersion, Event, Service, Name, Reason string }
			if json.Unmarshal([]byte(line), &e) != nil || e.Service != "default/"+service {
				continue
			}
			if e.APIVersion != "shoal/v1" {
				return fmt.Errorf("an event without its version: %s", line)
			}
			if text := e.Event + " " + e.Name + ": " + e.Reason; len(left) > 0 && strings.HasPrefix(text, left[0]) {
				left = left[1:]
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("no %q, in this order, in\n%s", left, p.Output())
		}
		return nil
	})
	if out := h.Shoal("events", "--since", "10m", "--follow=false"); !strings.Contains(out, "task-died") || !strings.Contains(out, "brief of default/"+service+" on a") {
		t.Errorf("the events of the past:\n%s", out)
	}
}

// TestBugreport: the report has what the agent knows, and no token, wherever that stands.
func TestBugreport(t *testing.T) {
	h := home(t)
	token := jsonOf[struct{ Token string }](t, h.Shoal("token", "create", "-o", "json")).Token
	h.Docker("run", "-d", "--name", token, "-l", "shoal.service=told", lab.Image)
	h.task(token, "running")
	file := filepath.Join(h.Dir(), "report.tar.gz")
	out := h.Shoal("bugreport", file)
	all := h.Exec("tar", "-xzOf", file)
	for _, text := range []string{"default/told", "SHOAL-1-REDACTED", "shoal_tasks", "task-started", "Linux version"} {
		if !strings.Contains(all, text) {
			t.Errorf("the report does not have %s", text)
		}
	}
	if strings.Contains(all, token) || !strings.Contains(out, "join token") {
		t.Errorf("the report has a token, or does not say that it was taken out:\n%s", out)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the report's mode is %v, %v", info.Mode(), err)
	}
	for _, text := range []string{"docker-host", "unix://" + h.DockerSocket(), "-A SHOAL-", "dev docker0", "net/ipv4/ip_forward = 1"} {
		if !strings.Contains(all, text) {
			t.Errorf("the report does not have %s", text)
		}
	}

	// Without an agent: what it left in the kernel.
	config := filepath.Join(h.Dir(), "other.yaml")
	if err := os.WriteFile(config, []byte("zone: elsewhere.internal\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.KillAgent(syscall.SIGKILL)
	h.Shoal("bugreport", "--config", config, file)
	h.StartAgent()
	h.ready()
	all = h.Exec("tar", "-xzOf", file)
	for _, text := range []string{"zone: elsewhere.internal", "no agent runs", "-A SHOAL-", "dev docker0", "net/ipv4/ip_forward = 1"} {
		if !strings.Contains(all, text) {
			t.Errorf("without an agent, the report does not have %s", text)
		}
	}
}
