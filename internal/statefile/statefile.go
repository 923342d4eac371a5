// Package statefile writes small files that an agent needs after a restart.
//
// In: a value. Out: a file with it as JSON, which is the old one or the new
// one after a crash, never half of either.
package statefile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Save writes v to a file that root alone may read. The folder must exist.
func Save(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err == nil {
		err = Write(path, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write the state file %s: %w", path, err)
	}
	return nil
}

// Load reads what [Save] wrote into the value that v points to. Without a file
// it leaves that alone, and found is false.
func Load(path string, v any) (found bool, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return true, fmt.Errorf("read the state file %s: %w", path, err)
	}
	return true, nil
}

// Write replaces a file whole: the content is on the disk under another name
// before it gets this one. Its mode is 0600.
func Write(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close()) // the new name
}
