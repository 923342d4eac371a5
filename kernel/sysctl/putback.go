package sysctl

import (
	"errors"
	"io/fs"
	"os"
)

// PutBack gives one parameter the value it had before it was changed, and
// forgets that. A parameter that was never changed stays as it is.
func (k *Keeper) PutBack(name string) error {
	saved, err := k.load()
	if err != nil {
		return err
	}
	value, changed := saved[name]
	if !changed {
		return nil
	}
	have, err := k.get(name)
	if err == nil && have != value {
		err = k.write(name, value)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if delete(saved, name); len(saved) == 0 {
		return os.Remove(k.file)
	}
	return k.save(saved)
}
