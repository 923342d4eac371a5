package clock

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Program is the agent's program that has a [Clock], beside the lab's other programs.
const Program = "shoal-clock"

// Clock is the wall clock of the programs that have its file for LAB_CLOCK.
type Clock struct{ file string }

// New makes a clock that goes right, by a file in a folder.
func New(dir string) (Clock, error) {
	c := Clock{filepath.Join(dir, "clock")}
	return c, c.Skew(0)
}

// Env is the variable that programs need.
func (c Clock) Env() string { return "LAB_CLOCK=" + c.file }

// Skew has the clock be wrong by so much, in whole seconds, forward or, below zero, back.
func (c Clock) Skew(by time.Duration) error {
	f, err := os.OpenFile(c.file, os.O_CREATE|os.O_WRONLY, 0o644) // and not anew: programs have it mapped
	if err != nil {
		return fmt.Errorf("set a clock: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(by/time.Second)), 0); err != nil {
		return fmt.Errorf("set a clock: %w", err)
	}
	return nil
}
