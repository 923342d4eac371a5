package rules

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/coreos/go-iptables/iptables"

	"shoal/kernel"
)

// Read is all rules of some tables, in the calling thread's network namespace.
// It runs one program for each that has changed since it was last read. What it
// returns must not be changed.
func Read(ctx context.Context, tables ...string) (State, error) {
	ipt, err := program()
	if err != nil {
		return nil, err
	}
	state := State{}
	for _, table := range tables {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		state[table], err = again(ipt.variant, table, func() (map[string][]string, error) {
			lines, err := ipt.List(table, everyChain)
			return parse(lines), err
		})
		if err != nil {
			return nil, fmt.Errorf("read the iptables rules of table %s: %w", table, err)
		}
	}
	return state, nil
}

// everyChain stands where List takes a chain: an option there is no chain, and
// without one iptables lists the whole table. The library gives the same option
// again. Listing the chains one by one would take three times as many programs,
// and would not tell a chain that is not there from other errors: the variant
// of iptables for nftables says something else of it than the other.
const everyChain = "--wait"

// Tables are those that the chains are in.
func Tables(want []Chain) []string {
	return slices.DeleteFunc(slices.Clone(tables), func(table string) bool {
		return !slices.ContainsFunc(want, func(c Chain) bool { return c.Table == table })
	})
}

// Keep makes the chains what they should be, in the calling thread's network
// namespace. It says what was wrong, in a line each; none if nothing was, and
// then it wrote nothing. On an error the edits that were to follow are left to
// the next call.
func Keep(ctx context.Context, want []Chain) (wrong []string, err error) {
	have, err := Read(ctx, Tables(want)...)
	if err != nil {
		return nil, err
	}
	edits, wrong := Diff(want, have)
	return wrong, write(ctx, edits)
}

// Remove takes out the named chains and all jumps to them. Chains that are not
// there are not an error.
func Remove(ctx context.Context, names ...string) error {
	have, err := Read(ctx, tables...)
	if err != nil {
		return err
	}
	return write(ctx, remove(func(chain string) bool { return slices.Contains(names, nameOf(chain)) }, have))
}

// write does the edits, a program each. What fails in a table ends the work
// there, as the order of edits matters; other tables stand by themselves.
func write(ctx context.Context, edits []Edit) error {
	if len(edits) == 0 {
		return nil
	}
	ipt, err := program()
	if err != nil {
		return err
	}
	failed := map[string]bool{}
	var errs []error
	for _, e := range edits {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if failed[e.Table] {
			continue
		}
		kernel.Wrote("iptables", 1)
		if err := do(ipt, e); err != nil {
			failed[e.Table] = true
			// The library's error has the whole command in it, and ends in a newline.
			errs = append(errs, errors.New("write an iptables rule: "+strings.TrimSpace(err.Error())))
		}
	}
	return errors.Join(errs...)
}

func do(ipt *tool, e Edit) error {
	switch e.Op {
	case NewChain:
		return ipt.NewChain(e.Table, e.Chain)
	case Append:
		return ipt.Append(e.Table, e.Chain, words(e.Rule)...)
	case Insert:
		return ipt.Insert(e.Table, e.Chain, 1, words(e.Rule)...)
	case Delete:
		return ipt.Delete(e.Table, e.Chain, words(e.Rule)...)
	case ClearChain:
		return ipt.ClearChain(e.Table, e.Chain)
	case DeleteChain:
		return ipt.DeleteChain(e.Table, e.Chain)
	default:
		return ipt.RenameChain(e.Table, e.Chain, e.To)
	}
}

// lockWait is how long a program waits for others that change rules, in
// seconds.
const lockWait = 5

// tool is the iptables of this machine.
type tool struct {
	*iptables.IPTables
	variant variant
}

var found struct {
	sync.Mutex
	tool *tool
}

// program finds out once which iptables there is.
func program() (*tool, error) {
	found.Lock()
	defer found.Unlock()
	if found.tool != nil {
		return found.tool, nil
	}
	path, err := exec.LookPath("iptables")
	if err != nil {
		return nil, fmt.Errorf("%w: install the package iptables", err)
	}
	ipt, err := iptables.New(iptables.Path(path), iptables.Timeout(lockWait))
	if err != nil {
		return nil, fmt.Errorf("run iptables: %w", err)
	}
	found.tool = &tool{ipt, variantOf(path)}
	return found.tool, nil
}
