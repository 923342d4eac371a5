package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"shoal/internal/statefile"
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

// In reads and writes the parameters that are files of another folder than the
// kernel's: for tests of what is the whole machine's. It remembers nothing.
func In(root string) *Keeper { return &Keeper{root: root} }

// IPv4 is the name of an IPv4 parameter of a device ("all" and "default" are
// two of them), whatever characters the device's name has.
func IPv4(device, param string) string { return "net/ipv4/conf/" + device + "/" + param }

// Get reads a parameter. In a name, the first separator tells which of "." and
// "/" separates: "net.ipv4.ip_forward" is "net/ipv4/ip_forward", and the other
// one stands for itself, as sysctl.d(5) has it. Use [IPv4] where a device's name
// is part of it.
func Get(name string) (string, error) { return New("").get(name) }

// Get is as the function of that name.
func (k *Keeper) Get(name string) (string, error) { return k.get(name) }

// Set gives a parameter a value and reads it back. What it was before is not
// remembered: it is for parameters of devices that their owner removes.
func Set(name, value string) error { return New("").write(name, value) }

// swap makes the dots of a name slashes and its slashes dots.
var swap = strings.NewReplacer(".", "/", "/", ".")

func (k *Keeper) path(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		name = swap.Replace(name)
	}
	return filepath.Join(k.root, name)
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

// Put gives a parameter a value, which the kernel may round. What it was before
// is not remembered.
func (k *Keeper) Put(name, value string) error {
	if err := os.WriteFile(k.path(name), []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w; set it on the host if this is a container with a read-only /proc/sys", name, value, err)
	}
	kernel.Wrote("sysctl", 1)
	return nil
}

func (k *Keeper) write(name, value string) error {
	if err := k.Put(name, value); err != nil {
		return err
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
	if _, err := statefile.Load(k.file, &saved); err != nil {
		return nil, fmt.Errorf("original values of sysctls: %w", err)
	}
	return saved, nil
}

func (k *Keeper) save(saved map[string]string) error {
	if err := statefile.Save(k.file, saved); err != nil {
		return fmt.Errorf("original values of sysctls: %w", err)
	}
	return nil
}
