package rules

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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
		state[table], err = cachedRead(ipt.variant, table, func() (map[string][]string, error) {
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
// namespace, in one transaction a table. It says what was wrong, in a line each;
// none if nothing was, and then it wrote nothing. A table that fails stays as it
// was, and the others are done.
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
	return write(ctx, remove(func(chain string) bool { return slices.Contains(names, chain) }, have))
}

// write does the edits, a transaction and a program a table.
func write(ctx context.Context, edits []Edit) error {
	var errs []error
	for _, table := range tables {
		var of []Edit
		for _, e := range edits {
			if e.Table == table {
				of = append(of, e)
			}
		}
		if len(of) > 0 {
			errs = append(errs, restore(ctx, table, of))
		}
	}
	return errors.Join(errs...)
}

// restore does the edits of one table, all or none of them.
func restore(ctx context.Context, table string, edits []Edit) error {
	ipt, err := program()
	if err != nil {
		return err
	}
	kernel.Wrote("iptables", len(edits))
	cmd := exec.CommandContext(ctx, ipt.restore, "--noflush", "--wait", strconv.Itoa(lockWait))
	cmd.Stdin = strings.NewReader(transaction(table, edits))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(string(out))
	if e, ok := refused(text, edits); ok {
		text = fmt.Sprintf("%q: %s", e, text)
	}
	return fmt.Errorf("write the iptables rules of table %s: %w: %s", table, err, text)
}

var failedLine = regexp.MustCompile(`line:? (\d+)`)

// refused finds the edit that iptables-restore complains of.
func refused(text string, edits []Edit) (Edit, bool) {
	m := failedLine.FindStringSubmatch(text)
	if m == nil {
		return Edit{}, false
	}
	n, err := strconv.Atoi(m[1]) // the first line names the table
	if err != nil || n < 2 || n-2 >= len(edits) {
		return Edit{}, false
	}
	return edits[n-2], true
}

// lockWait is how long a program waits for others that change rules, in
// seconds.
const lockWait = 5

// tool is the iptables of this machine.
type tool struct {
	*iptables.IPTables
	variant variant
	restore string // path of its iptables-restore
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
	restore := filepath.Join(filepath.Dir(path), "iptables-restore")
	if _, err := os.Stat(restore); err != nil {
		return nil, fmt.Errorf("%w: it belongs to the package iptables", err)
	}
	found.tool = &tool{ipt, variantOf(path), restore}
	return found.tool, nil
}
