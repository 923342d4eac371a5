package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// mostKernel bounds what a report holds of a table of the kernel, in octets.
const mostKernel = 4 << 20

// kernelTables are what the kernel has of the mesh, and of others where the mesh's stands
// among theirs: the programs that print it, by the name of the part.
var kernelTables = []struct{ name, command string }{
	{"nft.txt", "nft -s list table ip shoal"},
	{"iptables.txt", "iptables-save -c"},
	{"ipset.txt", "ipset save"},
	{"rules.txt", "ip -d rule"},
	{"routes.txt", "ip -d route show table all"},
	{"links.txt", "ip -d -s link"},
	{"addresses.txt", "ip addr"},
	{"neighbours.txt", "ip -d neigh"},
	{"fdb.txt", "bridge fdb"},
}

// kernelFiles are files that the kernel shows, likewise.
var kernelFiles = []struct{ name, path string }{
	{"ipvs.txt", "/proc/net/ip_vs"},
	{"modules.txt", "/proc/modules"},
}

// kernelSources are the kernel's own tables. They need no agent.
func kernelSources() (all []reportSource) {
	for _, t := range kernelTables {
		all = append(all, reportSource{"kernel/" + t.name, func(ctx context.Context, _ *redactor) (string, error) {
			return toolText(ctx, strings.Fields(t.command)...)
		}})
	}
	for _, f := range kernelFiles {
		all = append(all, reportSource{"kernel/" + f.name, func(context.Context, *redactor) (string, error) {
			text, err := os.ReadFile(f.path)
			return bounded(string(text)), err
		}})
	}
	return append(all, reportSource{"kernel/sysctl.txt", func(context.Context, *redactor) (string, error) { return parametersText("/proc/sys") }})
}

// toolText is what a program prints.
func toolText(ctx context.Context, command ...string) (string, error) {
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).Output()
	failed := (*exec.ExitError)(nil)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%s is not installed", command[0])
	case errors.As(err, &failed) && len(failed.Stderr) > 0:
		return "", fmt.Errorf("%s: %s", strings.Join(command, " "), strings.Join(strings.Fields(string(failed.Stderr)), " "))
	case err != nil:
		return "", fmt.Errorf("%s: %w", strings.Join(command, " "), err)
	}
	return bounded(string(out)), nil
}

// bounded is the beginning of a text that is too long.
func bounded(text string) string {
	if len(text) <= mostKernel {
		return text
	}
	return text[:mostKernel] + fmt.Sprintf("\n# and %d octets more\n", len(text)-mostKernel)
}

// parameterFolders have the kernel's parameters that matter to packets.
var parameterFolders = []string{"net/ipv4", "net/bridge", "net/netfilter", "net/core"}

// parametersText lists the parameters below a folder like /proc/sys as sysctl does, but for
// those that nobody may read, and for the one that is a secret.
func parametersText(root string) (string, error) {
	var b strings.Builder
	for _, folder := range parameterFolders {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "tcp_fastopen_key" {
				return nil // a folder that is not there: its module is not loaded
			}
			value, err := os.ReadFile(path)
			if err != nil {
				return nil // it can only be written, as route/flush
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s = %s\n", name, strings.Join(strings.Fields(string(value)), " "))
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	if b.Len() == 0 {
		return "", fmt.Errorf("no parameter below %s can be read", root)
	}
	return bounded(b.String()), nil
}
