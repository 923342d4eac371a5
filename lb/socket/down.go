package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// Down takes away all that any Plane with these options has in the kernel:
// programs, maps and pins, not the BPF file system. TCP connections stay. UDP sockets
// that were led are connected to their VIPs, or closed if they cannot be: a socket must not
// stay with a task that nobody watches any more. Of the options it reads Pins, Reconnect,
// Destroy and Log.
func Down(opts Options) error {
	var in unix.Statfs_t
	if err := unix.Statfs(opts.Pins, &in); err != nil || in.Type != unix.BPF_FS_MAGIC {
		return nil // no pins
	}
	folders, err := layouts(opts.Pins)
	if err := errors.Join(err, detachLeading(opts.Pins)); err != nil {
		return err // programs that stay go on leading by the maps, which can be reached by their pins alone
	}
	for _, folder := range folders {
		putBack(opts, folder)
	}
	if err := detach(opts.Pins); err != nil {
		return err // likewise
	}
	var errs []error
	for _, folder := range folders {
		errs = append(errs, dropMaps(folder))
	}
	if err := os.Remove(opts.Pins); err != nil && !errors.Is(err, unix.EBUSY) { // where the file system is mounted itself
		errs = append(errs, fmt.Errorf("remove the folder of BPF pins: %w", err))
	}
	return errors.Join(errs...)
}

// layouts are the folders of maps below that of pins.
func layouts(pins string) (folders []string, err error) {
	all, err := os.ReadDir(pins)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the folder of BPF pins: %w", err)
	}
	for _, e := range all {
		if e.IsDir() {
			folders = append(folders, filepath.Join(pins, e.Name()))
		}
	}
	return folders, nil
}

// dropOtherLayouts removes the maps of other versions, which no program uses any
// more. UDP sockets that are led by them are connected to their VIPs.
func dropOtherLayouts(opts Options) error {
	folders, err := layouts(opts.Pins)
	errs := []error{err}
	for _, folder := range folders {
		if folder != mapsFolder(opts.Pins) {
			putBack(opts, folder)
			errs = append(errs, dropMaps(folder))
		}
	}
	return errors.Join(errs...)
}

// dropMaps removes the pins of maps, and their folder. A map ends with the last
// program that uses it.
func dropMaps(folder string) error {
	kernel.Wrote("bpf", 1)
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("unpin BPF maps: %w", err)
	}
	return nil
}
