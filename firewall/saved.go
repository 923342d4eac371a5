package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Rules of iptables can be saved, and restored when the machine starts. Those
// that ask an ipset are refused then if the set is not there, and with them all
// others of the file (iptables-restore(8) commits a table whole, and stops at the
// first line that it does not take). The sets are made by the agent, later.

// savedRules are the files that services restore when the machine starts: Debian's
// netfilter-persistent, iptables.service of RHEL and its like, Alpine, Arch Linux,
// Gentoo.
var savedRules = []string{
	"/etc/iptables/rules.v4", "/etc/sysconfig/iptables", "/etc/iptables/rules-save", "/etc/iptables/iptables.rules", "/var/lib/iptables/rules-save",
}

// savingSettings are the settings by which they are saved when it stops.
var savingSettings = []struct{ file, on, off string }{
	{"/etc/sysconfig/iptables-config", `IPTABLES_SAVE_ON_STOP="yes"`, `IPTABLES_SAVE_ON_STOP="no"`},
	{"/etc/sysconfig/iptables-config", `IPTABLES_SAVE_ON_RESTART="yes"`, `IPTABLES_SAVE_ON_RESTART="no"`},
	{"/etc/conf.d/iptables", `SAVE_ON_STOP="yes"`, `SAVE_ON_STOP="no"`},
}

// Saved is a file that keeps rules from being restored, or will.
type Saved struct {
	File, Reason string
	Rules        bool // it has such rules already
}

// FindSaved reads these files, below a root folder ("/" for this machine).
func FindSaved(root string) (all []Saved, err error) {
	var errs []error
	read := func(name string) []byte {
		b, err := os.ReadFile(root + name)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			errs = append(errs, err)
		}
		return b
	}
	for _, f := range savedRules {
		if asksOurSets(read(f)) {
			all = append(all, Saved{f, fmt.Sprintf("%s has rules of shoal's, which ask ipsets that are not there when the machine starts: restoring it would fail, "+
				"with all rules in it. Take them out, the agent makes its own: sed -i '/SHOAL-/d' %[1]s", f), true})
		}
	}
	for _, s := range savingSettings {
		if hasLine(read(s.file), s.on) {
			all = append(all, Saved{s.file, fmt.Sprintf("%s saves the rules of iptables when the machine stops, shoal's among them, which ask ipsets that are not there when it starts again: "+
				"restoring them would fail. Set %s there, and save rules by hand, without the lines that have SHOAL- in them", s.file, s.off), false})
		}
	}
	return all, errors.Join(errs...)
}

// asksOurSets tells whether rules as iptables-save(8) prints them ask a set of
// the data plane's.
func asksOurSets(rules []byte) bool {
	for line := range bytes.Lines(rules) {
		if bytes.HasPrefix(line, []byte("-A")) && (bytes.Contains(line, []byte("-set SHOAL-")) || bytes.Contains(line, []byte("-set ! SHOAL-"))) {
			return true
		}
	}
	return false
}

// hasLine tells whether a shell's file sets something, quoted or not.
func hasLine(file []byte, want string) bool {
	plain := bytes.ReplaceAll([]byte(want), []byte(`"`), nil)
	for line := range bytes.Lines(file) {
		if bytes.Equal(bytes.ReplaceAll(bytes.TrimSpace(line), []byte(`"`), nil), plain) {
			return true
		}
	}
	return false
}
