package managers

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Files of systemd-networkd, below the root of the file system.
const (
	netif = "run/systemd/netif" // is there once it has run

	// DropIn is the file that is made for it. A file of a later name wins over it.
	DropIn = "run/systemd/networkd.conf.d/10-shoal.conf"
)

// settings are those that keep systemd-networkd from removing what others made.
var settings = []string{"ManageForeignRoutes", "ManageForeignRoutingPolicyRules"}

var dropIn = []byte(`# Made by shoal until the next boot; "shoal down" removes it. See networkd.conf(5).
[Network]
ManageForeignRoutes=no
ManageForeignRoutingPolicyRules=no
`)

// Networkd keeps systemd-networkd from removing routes and routing rules that
// it did not make, from its next start on. It writes nothing where the host has
// no systemd-networkd, or its settings in networkd.conf say something of it
// already. It tells whether it wrote.
func Networkd(root string) (wrote bool, err error) {
	if !isThere(filepath.Join(root, netif)) || len(said(filepath.Join(root, "etc/systemd/networkd.conf"))) > 0 {
		return false, nil
	}
	file := filepath.Join(root, DropIn)
	if have, err := os.ReadFile(file); err == nil && bytes.Equal(have, dropIn) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return false, fmt.Errorf("tell systemd-networkd to leave routes alone: %w", err)
	}
	if err := os.WriteFile(file, dropIn, 0o644); err != nil {
		return false, fmt.Errorf("tell systemd-networkd to leave routes alone: %w", err)
	}
	return true, nil
}

// NetworkdState is how a host stands with systemd-networkd.
type NetworkdState struct {
	Runs    bool     // it runs, or ran since the boot
	Removes []string // settings by which it removes what others made
	Owner   bool     // its own networkd.conf says something of that, which shoal leaves alone
}

// ReadNetworkd finds out. The last file that says something of a setting counts,
// by the names of the files, and networkd.conf is the first (networkd.conf(5)).
func ReadNetworkd(root string) NetworkdState {
	s := NetworkdState{Runs: isThere(filepath.Join(root, netif))}
	own := filepath.Join(root, "etc/systemd/networkd.conf")
	s.Owner = len(said(own)) > 0
	files := []string{own}
	byName := map[string]string{}
	var names []string
	for _, dir := range []string{"usr/lib", "run", "etc"} { // the later folder hides files of the same name
		found, _ := filepath.Glob(filepath.Join(root, dir, "systemd/networkd.conf.d/*.conf"))
		for _, f := range found {
			name := filepath.Base(f)
			if byName[name] == "" {
				names = append(names, name)
			}
			byName[name] = f
		}
	}
	slices.Sort(names)
	for _, name := range names {
		files = append(files, byName[name])
	}
	value := map[string]string{}
	for _, f := range files {
		for k, v := range said(f) {
			value[k] = v
		}
	}
	for _, k := range settings {
		switch strings.ToLower(value[k]) {
		case "no", "false", "off", "0", "n", "f":
		default:
			s.Removes = append(s.Removes, k)
		}
	}
	return s
}

// said is what a file says of the settings.
func said(file string) map[string]string {
	found := map[string]string{}
	b, err := os.ReadFile(file)
	if err != nil {
		return found
	}
	for line := range strings.Lines(string(b)) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), "=")
		for _, s := range settings {
			if ok && strings.TrimSpace(k) == s {
				found[s] = strings.TrimSpace(v)
			}
		}
	}
	return found
}

// Down removes the file.
func Down(root string) error {
	if err := os.Remove(filepath.Join(root, DropIn)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what systemd-networkd was told: %w", err)
	}
	return nil
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
