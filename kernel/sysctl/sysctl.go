package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"shoal/kernel"
)

// root is where the kernel's parameters are.
const root = "/proc/sys"

// Keeper remembers what parameters were before they were changed.
type Keeper struct {
	root string // "/proc/sys"
	file string // JSON: name -> value before the first change
}

// New is a Keeper that remembers in that file. The file is made when there is
// something to remember; its folder must exist.
func New(file string) *Keeper { return &Keeper{root: root, file: file} }

// Get reads a parameter; the name is in dotted form, "net.ipv4.ip_forward".
func Get(name string) (string, error) { return New("").get(name) }

func (k *Keeper) path(name string) string {
	return filepath.Join(k.root, strings.ReplaceAll(name, ".", "/"))
}

func (k *Keeper) get(name string) (string, error) {
	b, err := os.ReadFile(k.path(name))
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Set gives a parameter a value and reads it back. It writes nothing where the
// value stands already. What was there before the first change goes to the
// file, before the change is made.
func (k *Keeper) Set(name, value string) error {
	have, err := k.get(name)
	if err != nil || have == value {
		return err
	}
	if err := k.remember(name, have); err != nil {
		return err
	}
	return k.write(name, value)
}

func (k *Keeper) write(name, value string) error {
	kernel.Wrote("sysctl", 1)
	if err := os.WriteFile(k.path(name), []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w; set it on the host if this is a container with a read-only /proc/sys", name, value, err)
	}
	switch have, err := k.get(name); {
	case err != nil:
		return err
	case have != value:
		return fmt.Errorf("set sysctl %s=%s: the kernel kept %s", name, value, have)
	}
	return nil
}

// Restore puts every remembered parameter back and forgets it. One whose file
// is gone (its module was unloaded) is forgotten.
func (k *Keeper) Restore() error {
	saved, err := k.load()
	if err != nil || len(saved) == 0 {
		return err
	}
	var errs []error
	for name, value := range saved {
		have, err := k.get(name)
		if err == nil && have != value {
			err = k.write(name, value)
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			delete(saved, name)
			continue
		}
		errs = append(errs, err)
	}
	if len(saved) > 0 {
		return errors.Join(append(errs, k.save(saved))...)
	}
	return errors.Join(append(errs, os.Remove(k.file))...)
}

func (k *Keeper) remember(name, value string) error {
	saved, err := k.load()
	if err != nil {
		return err
	}
	if _, known := saved[name]; known {
		return nil
	}
	saved[name] = value
	return k.save(saved)
}

func (k *Keeper) load() (map[string]string, error) {
	saved := map[string]string{}
	b, err := os.ReadFile(k.file)
	if errors.Is(err, fs.ErrNotExist) {
		return saved, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &saved)
	}
	if err != nil {
		return nil, fmt.Errorf("read the sysctls' original values in %s: %w", k.file, err)
	}
	return saved, nil
}

// save replaces the file whole, so that a crash leaves the old one or the new.
func (k *Keeper) save(saved map[string]string) error {
	b, err := json.MarshalIndent(saved, "", "  ")
	if err == nil {
		err = os.WriteFile(k.file+".new", append(b, '\n'), 0o600)
	}
	if err == nil {
		err = os.Rename(k.file+".new", k.file)
	}
	if err != nil {
		return fmt.Errorf("keep the sysctls' original values in %s: %w", k.file, err)
	}
	return nil
}
