package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"shoal/agent"
	"shoal/api"
	"shoal/events"
)

// Bounds of what a report holds.
const (
	mostExplained = 20      // services
	mostLogLines  = "2000"  // of the journal
	mostEngine    = 1 << 20 // octets of the engine's answer
)

// reportSources are all sources of a report. An agent that does not answer is asked
// once only.
func (o *options) reportSources(ctx context.Context) []reportSource {
	c := api.NewClient(api.Socket(o.runDir))
	status, away := c.Status(ctx)
	set := o.knownSettings(ctx, c, away)
	asked := func(name string, ask func(context.Context) (any, error)) reportSource {
		return reportSource{name, func(ctx context.Context, _ *redactor) (string, error) {
			if away != nil {
				return "", away
			}
			v, err := ask(ctx)
			if err != nil {
				return "", err
			}
			return indented(v)
		}}
	}
	all := []reportSource{
		{"version.json", func(context.Context, *redactor) (string, error) { return indented(thisVersion()) }},
		{"host.txt", func(context.Context, *redactor) (string, error) { return hostText() }},
		{"engine.json", func(ctx context.Context, _ *redactor) (string, error) { return engineVersion(ctx, set.docker()) }},
		{"settings.txt", func(_ context.Context, r *redactor) (string, error) { return set.text(r), nil }},
		asked("status.json", func(context.Context) (any, error) { return status, nil }),
		asked("problems.json", func(ctx context.Context) (any, error) { return c.ClusterProblems(ctx) }),
		asked("nodes.json", func(ctx context.Context) (any, error) { return c.Nodes(ctx) }),
		asked("services.json", func(ctx context.Context) (any, error) { return c.Services(ctx) }),
		asked("tasks.json", func(ctx context.Context) (any, error) { return c.Tasks(ctx) }),
		asked("events.json", func(ctx context.Context) (any, error) {
			all := []events.Event{}
			err := c.Events(ctx, time.Unix(1, 0), false, func(e events.Event) error { all = append(all, e); return nil })
			return all, err
		}),
		{"metrics.txt", func(ctx context.Context, _ *redactor) (string, error) {
			if away != nil {
				return "", away
			}
			var b bytes.Buffer
			err := c.Metrics(ctx, &b)
			return b.String(), err
		}},
		{"log.txt", journal},
	}
	all = append(all, kernelSources()...)
	if away == nil {
		services, _ := c.Services(ctx) // that they are not known is said above
		for _, id := range explained(services) {
			all = append(all, asked("explain/"+strings.ReplaceAll(id, "/", "-")+".json", func(ctx context.Context) (any, error) { return c.Explain(ctx, id) }))
		}
	}
	return all
}

// explained are the services that a report explains: those first that lack tasks.
func explained(services []api.ServiceView) (ids []string) {
	for _, lacking := range []bool{true, false} {
		for _, s := range services {
			if lacking == (s.InRotation < max(s.Tasks, 1)) && len(ids) < mostExplained {
				ids = append(ids, s.ID)
			}
		}
	}
	return ids
}

// indented is a value as -o json has it.
func indented(v any) (string, error) {
	var b bytes.Buffer
	err := format{kind: "json"}.encode(&b, v)
	return b.String(), err
}

// hostText is which kernel and which system this host has.
func hostText() (string, error) {
	var b strings.Builder
	for _, file := range []string{"/proc/version", "/etc/os-release"} {
		text, err := os.ReadFile(file)
		if err != nil {
			fmt.Fprintf(&b, "# %v\n", err)
			continue
		}
		fmt.Fprintf(&b, "# %s\n%s\n", file, text)
	}
	return b.String(), nil
}

// engineVersion is what the engine at an address as in DOCKER_HOST says of itself, and of
// what it consists of.
func engineVersion(ctx context.Context, host string) (string, error) {
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return "", fmt.Errorf("the engine at %s is not asked: it is no unix socket", host)
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/version", nil)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask the engine: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, mostEngine))
	if err != nil {
		return "", fmt.Errorf("ask the engine: %w", err)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return "", fmt.Errorf("read the engine's answer: %w", err)
	}
	return b.String() + "\n", nil
}

// agentSettings are the settings of the agent, as far as they are known: those that it
// runs with, or, where it does not answer, those of its file.
type agentSettings struct {
	running []api.Setting
	why     error // why the running ones are not known

	path    string // of the file
	file    map[string]inFile
	fileErr error
}

// knownSettings are asked of the agent, unless it is away.
func (o *options) knownSettings(ctx context.Context, c *api.Client, away error) *agentSettings {
	s := &agentSettings{why: away, path: o.configFile()}
	if away == nil {
		s.running, s.why = c.Settings(ctx)
	}
	if s.why != nil {
		s.file, s.fileErr = readSettings(s.path)
	}
	return s
}

// docker is where the engine is.
func (s *agentSettings) docker() string {
	host := s.file["docker-host"].value
	for _, one := range s.running {
		if one.Name == "docker-host" {
			host = one.Value
		}
	}
	return cmp.Or(host, agent.Defaults().Docker)
}

// text lists the settings of the agent as shoal settings does, or those of the file.
func (s *agentSettings) text(r *redactor) string {
	if s.why == nil {
		list := &grid{}
		row(list, "SETTING", "VALUE", "SOURCE")
		for _, one := range s.running {
			row(list, one.Name, one.Value, strings.TrimSpace(one.Source+" "+one.Place))
		}
		return list.text()
	}
	text := fmt.Sprintf("# the agent does not tell what it runs with (%v): known are the settings of %s alone, and no flags and variables\n", s.why, s.path)
	if s.fileErr != nil {
		text += "# " + s.fileErr.Error() + "\n"
	}
	return text + r.fileText(s.file)
}

// journal is the end of the agent's log.
func journal(ctx context.Context, _ *redactor) (string, error) {
	out, err := exec.CommandContext(ctx, "journalctl", "--unit", "shoal", "--lines", mostLogLines, "--no-pager", "--quiet", "--output", "short-iso").Output()
	if err != nil {
		return "", fmt.Errorf("read the journal: %w", err)
	}
	if len(out) == 0 {
		return "", errors.New("the journal has nothing of the unit shoal")
	}
	return string(out), nil
}
