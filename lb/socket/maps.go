package socket

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// kernelMaps are the programs' maps, by name.
type kernelMaps struct {
	byName map[string]*ebpf.Map
}

// openMaps opens the maps that are pinned in a folder, and makes those that are
// not.
func openMaps(folder string) (m *kernelMaps, err error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for pins: %w", err)
	}
	m = &kernelMaps{byName: map[string]*ebpf.Map{}}
	for name, spec := range specs() {
		if err := m.open(name, filepath.Join(folder, name), spec); err != nil {
			m.close()
			return nil, err
		}
	}
	return m, nil
}

func (m *kernelMaps) open(name, pin string, spec *ebpf.MapSpec) error {
	opened, err := ebpf.LoadPinnedMap(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		kernel.Wrote("bpf", 2)
		if opened, err = ebpf.NewMap(spec); err != nil {
			return fmt.Errorf("make the BPF map %s: %w", name, err)
		}
		if err = opened.Pin(pin); err != nil {
			opened.Close()
			return fmt.Errorf("pin the BPF map %s: %w", name, err)
		}
	}
	if err != nil {
		return fmt.Errorf("open the BPF map %s: %w", pin, err)
	}
	if err := spec.Compatible(opened); err != nil {
		opened.Close()
		return fmt.Errorf("the BPF map %s is not what it should be (%w): run `shoal down` and start the agent again", pin, err)
	}
	m.byName[name] = opened
	return nil
}

// repin pins again what somebody has unpinned.
func (m *kernelMaps) repin(folder string) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("make a folder for pins: %w", err)
	}
	var errs []error
	for name, one := range m.byName {
		pin := filepath.Join(folder, name)
		if _, err := os.Lstat(pin); err == nil {
			continue
		}
		kernel.Wrote("bpf", 1)
		copied, err := one.Clone() // it forgets where it was pinned
		if err == nil {
			err = errors.Join(copied.Pin(pin), copied.Close())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("pin the BPF map %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (m *kernelMaps) fd(name string) int { return m.byName[name].FD() }

func (m *kernelMaps) close() {
	for _, one := range m.byName {
		one.Close()
	}
}

// haveAll tells whether all of some maps are ours.
func (m *kernelMaps) haveAll(ids []ebpf.MapID) bool {
	var own []ebpf.MapID
	for _, one := range m.byName {
		if info, err := one.Info(); err == nil {
			if id, ok := info.ID(); ok {
				own = append(own, id)
			}
		}
	}
	for _, id := range ids {
		if !slices.Contains(own, id) {
			return false
		}
	}
	return true
}

// An entry of a hash table without preallocation takes its memory from a stock of
// a few dozen elements, which from Linux 6.1 on the kernel fills up in an interrupt
// of its own (kernel/bpf/memalloc.c, refill_work). Where that is late the stock is
// empty for as long as a tick of the clock. A write waits for it, at most so long.
const (
	refillPause = time.Millisecond
	refillLimit = time.Second
)

// set puts an entry in, in the place of the one that the key has.
func (m *kernelMaps) set(name string, key, value any) error {
	kernel.Wrote("bpf", 1)
	err := m.byName[name].Put(key, value)
	for begun := time.Now(); errors.Is(err, unix.ENOMEM) && time.Since(begun) < refillLimit; {
		time.Sleep(refillPause)
		err = m.byName[name].Put(key, value)
	}
	switch {
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("the BPF map %s is full: %d entries", name, m.byName[name].MaxEntries())
	case err != nil:
		return fmt.Errorf("write to the BPF map %s: %w", name, err)
	}
	return nil
}

// remove deletes an entry, if it is there.
func (m *kernelMaps) remove(name string, key any) error {
	kernel.Wrote("bpf", 1)
	if err := m.byName[name].Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete from the BPF map %s: %w", name, err)
	}
	return nil
}

// list reads a hash table. What changes meanwhile may be among it or not.
func list[K, V any](m *kernelMaps, name string, visit func(K, V)) error {
	const batch = 1024
	from := m.byName[name]
	keys, values := make([]K, batch), make([]V, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := from.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			visit(keys[i], values[i])
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return nil
		case errors.Is(err, unix.ENOSPC):
			// More in one bucket than would fit.
			keys, values = make([]K, 2*len(keys)), make([]V, 2*len(values))
		case err != nil:
			return fmt.Errorf("read the BPF map %s: %w", name, err)
		}
	}
}
