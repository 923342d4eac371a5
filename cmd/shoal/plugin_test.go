package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestMain is shoal itself where docker calls it as its plug-in.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == pluginFile {
		main()
	}
	os.Exit(m.Run())
}

func TestDockersCommandLineHasThePlugIn(t *testing.T) {
	config := t.TempDir()
	plugins := filepath.Join(config, "cli-plugins")
	if err := os.Mkdir(plugins, 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(plugins, pluginFile)); err != nil {
		t.Fatal(err)
	}
	dir := anAgent(t, nil)
	docker := func(args ...string) (string, int) {
		t.Helper()
		cmd := exec.Command("docker", args...)
		cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+config, "SHOAL_RUN_DIR="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	for _, test := range []struct {
		args   string
		status int
		says   string
	}{
		{"--help", 0, "mesh*"},
		{"mesh --help", 0, "docker mesh [command]"},
		{"mesh services -o name", 0, "shop/web\ndefault/db\n"},
		{"--log-level error mesh services -o name", 0, "shop/web\n"},
		{"mesh services --help", 0, "docker mesh services"},
		{"mesh servics", 2, "docker mesh has no command"},
		{"__completeNoDesc mesh tasks sh", 0, "shop/web"},
	} {
		if out, status := docker(strings.Fields(test.args)...); status != test.status || !strings.Contains(out, test.says) {
			t.Errorf("docker %s: exit status %d, want %d and %q:\n%s", test.args, status, test.status, test.says, out)
		}
	}
}

func TestThePlugInsOwnArguments(t *testing.T) {
	for in, want := range map[string]string{
		"/usr/bin/shoal nodes":                       "nodes",
		"/x/docker-mesh docker-cli-plugin-metadata":  "docker-cli-plugin-metadata",
		"/x/docker-mesh mesh nodes -o json":          "nodes -o json",
		"/x/docker-mesh --context a mesh nodes mesh": "nodes mesh",
		"/x/docker-mesh __complete mesh node":        "__complete node",
	} {
		if got, _ := asPlugin(strings.Fields(in)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}
