package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"shoal/agent"
)

// These are set by the linker; a plain go build has what Go knows of them.
var (
	version string // SemVer
	commit  string
	date    string // the commit's, RFC 3339
)

// versionInfo is what shoal version prints.
type versionInfo struct {
	Version    string   `json:"version"`
	Commit     string   `json:"commit,omitempty"`
	Date       string   `json:"date,omitempty"` // of the commit
	Go         string   `json:"go"`
	Platform   string   `json:"platform"`
	DataPlanes []string `json:"dataPlanes"` // that it can use; the kernel decides which it does
}

func thisVersion() versionInfo {
	v := versionInfo{
		Version: version, Commit: commit, Date: date,
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, DataPlanes: agent.DataPlanes(),
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && v.Commit == "":
			v.Commit = s.Value
		case s.Key == "vcs.time" && v.Date == "":
			v.Date = s.Value
		}
	}
	return v
}

func buildVersion() string {
	if v := thisVersion().Version; v != "" {
		return v
	}
	return "unknown"
}

func versionCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version, and what it was built of",
		Example: "  shoal version\n  shoal version -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := thisVersion()
			return o.show(cmd.OutOrStdout(), v, func(w io.Writer) {
				row(w, "shoal", buildVersion())
				for _, line := range [][2]string{{"commit", v.Commit}, {"date", v.Date}} {
					if line[1] != "" {
						row(w, line[0], line[1])
					}
				}
				row(w, "go", fmt.Sprintf("%s %s", v.Go, v.Platform))
				row(w, "data planes", strings.Join(v.DataPlanes, ", "))
			})
		},
	}
}
