package main

import (
	"encoding/json"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// What docker's command line knows its plug-ins by: docs.docker.com/engine/extend/cli_plugins.
const (
	pluginName     = "mesh"
	pluginFile     = "docker-" + pluginName
	pluginMetadata = "docker-cli-plugin-metadata"
)

// asPlugin tells whether the program was called as docker's plug-in, which is a
// link to it of another name, and the arguments that are shoal's own: docker
// passes all of its own, the plug-in's name among them.
func asPlugin(argv []string) (args []string, plugin bool) {
	if filepath.Base(argv[0]) != pluginFile {
		return argv[1:], false
	}
	args = argv[1:]
	if i := slices.Index(args, pluginName); i >= 0 {
		rest := args[i+1:]
		if strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
			return append([]string{args[0]}, rest...), true
		}
		return rest, true
	}
	return args, true
}

// beDocker has a root command show itself as docker's.
func beDocker(root *cobra.Command) {
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "docker " + pluginName}
}

// printMetadata answers docker's question what the plug-in is.
func printMetadata(w io.Writer) error {
	return json.NewEncoder(w).Encode(struct{ SchemaVersion, Vendor, Version, ShortDescription, URL string }{
		"0.1.0", "shoal", buildVersion(), root(screen{}).Short, "",
	})
}
