package rules

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"shoal/kernel"
)

// Read is all rules of the calling thread's network namespace.
func Read(ctx context.Context) (State, error) {
	out, err := run(ctx, "", "iptables-save")
	if err != nil {
		return nil, fmt.Errorf("read the iptables rules: %w", err)
	}
	return parse(out), nil
}

// Apply makes the chains what they should be, with one program run. It says
// what was wrong, in a line each; none if nothing was, and then it wrote
// nothing.
func Apply(ctx context.Context, want []Chain, have State) (edits []string, err error) {
	script, edits := Diff(want, have)
	return edits, restore(ctx, script)
}

// Remove takes out the named chains and all jumps to them. Chains that are not
// there are not an error.
func Remove(ctx context.Context, names ...string) error {
	have, err := Read(ctx)
	if err != nil {
		return err
	}
	ours := map[string]bool{}
	for _, n := range names {
		ours[n] = true
	}
	return restore(ctx, remove(func(chain string) bool { return ours[chain] }, have))
}

func restore(ctx context.Context, script string) error {
	if script == "" {
		return nil
	}
	kernel.Wrote("iptables", strings.Count(script, "\n-")+strings.Count(script, "\n:"))
	// -w: wait for who else holds the lock.
	if _, err := run(ctx, script, "iptables-restore", "-w", "5", "--noflush"); err != nil {
		return fmt.Errorf("write iptables rules: %w", err)
	}
	return nil
}

func run(ctx context.Context, in, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(in)
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	switch err := cmd.Run(); {
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%w: install the package iptables", err)
	case err != nil:
		return "", fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(bad.Bytes()))
	}
	return out.String(), nil
}
