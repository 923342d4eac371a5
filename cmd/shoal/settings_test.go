package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"shoal/agent"
)

// settled runs settle on the agent's flags.
func resolved(t *testing.T, args []string, env map[string]string, file string) (settings, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	for k, v := range env {
		t.Setenv(k, v)
	}
	var c settings
	f := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	c.declare(f)
	if err := f.Parse(append([]string{"--config", path}, args...)); err != nil {
		t.Fatal(err)
	}
	_, err := c.resolve(f, &options{runDir: "/run/shoal"})
	return c, err
}

func TestFlagsWinOverVariablesAndThoseOverTheFile(t *testing.T) {
	const file = "udp-timeout: 1m\ntcp-timeout: 1h\nzone: file.internal\nupstream: [192.0.2.1, '192.0.2.2:53']\n"
	c, err := resolved(t, []string{"--tcp-timeout", "3h"}, map[string]string{"SHOAL_TCP_TIMEOUT": "2h", "SHOAL_ZONE": "env.internal"}, file)
	if err != nil {
		t.Fatal(err)
	}
	if c.TCPTimeout != 3*time.Hour || c.Zone != "env.internal" || c.UDPTimeout != time.Minute {
		t.Errorf("flag, variable, file: got %v, %v, %v", c.TCPTimeout, c.Zone, c.UDPTimeout)
	}
	if got := strings.Join(c.Upstreams, " "); got != "192.0.2.1 192.0.2.2:53" {
		t.Errorf("the list is %q", got)
	}
	if c.Pool != agent.Defaults().Pool {
		t.Errorf("what nobody set is %v", c.Pool)
	}
}

func TestWrongSettingsAreNamedWithTheirPlace(t *testing.T) {
	for name, tt := range map[string]struct {
		env  map[string]string
		file string
		say  []string
	}{
		"variable":     {env: map[string]string{"SHOAL_POOL": "ten"}, say: []string{"SHOAL_POOL", "ten"}},
		"value":        {file: "tcp-timeout: soon\n", say: []string{"agent.yaml", "tcp-timeout", "soon"}},
		"unknown key":  {file: "tcp-timeuot: 2h\n", say: []string{"agent.yaml", "tcp-timeuot"}},
		"no mapping":   {file: "- a\n- b\n", say: []string{"agent.yaml", "name: value"}},
		"mapping deep": {file: "pool: {a: b}\n", say: []string{"agent.yaml", "pool"}},
		"log level":    {file: "log-level: loud\n", say: []string{"--log-level", "loud"}},
		"its line":     {file: "# settings\n\nzone: a\ntcp-timeout: soon\n", say: []string{"agent.yaml:4"}},
		"twice":        {file: "zone: a\nzone: b\n", say: []string{"agent.yaml:2", "agent.yaml:1"}},
		"no key":       {file: "config: b\n", say: []string{`"config"`}},
		"two at once":  {file: "a: 1\nb: 2\n", say: []string{`"a"`, `"b"`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := resolved(t, nil, tt.env, tt.file)
			var usage *usageError
			if !errors.As(err, &usage) {
				t.Fatalf("got %v, want a usageError", err)
			}
			for _, s := range tt.say {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
		})
	}
}

func TestEmptyFileIsNoMistake(t *testing.T) {
	if _, err := resolved(t, nil, nil, "# nothing\n"); err != nil {
		t.Error(err)
	}
}
