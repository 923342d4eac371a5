package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mattn/go-runewidth"
	"github.com/spf13/cobra"
)

// everyCommand calls f with each command that the help shows, the root first.
func everyCommand(f func(*cobra.Command)) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		f(c)
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() && sub.Name() != "completion" && sub.Name() != "help" {
				walk(sub)
			}
		}
	}
	cmd := root(screen{})
	cmd.InitDefaultHelpCmd()
	cmd.InitDefaultCompletionCmd()
	walk(cmd)
}

func TestHelpFitsTheScreen(t *testing.T) {
	everyCommand(func(c *cobra.Command) {
		var help bytes.Buffer
		c.SetOut(&help)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(help.String()) {
			if n := runewidth.StringWidth(strings.TrimRight(line, "\n")); n > helpWidth {
				t.Errorf("%s --help has a line of %d columns: %s", c.CommandPath(), n, line)
			}
		}
	})
}

func TestEachCommandHasAGroupAndAnExample(t *testing.T) {
	everyCommand(func(c *cobra.Command) {
		if c.HasParent() && !c.Parent().HasParent() && c.GroupID == "" {
			t.Errorf("%s is in no group", c.CommandPath())
		}
		if !c.Runnable() || c.HasSubCommands() {
			return
		}
		for line := range strings.Lines(c.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: its example is not indented by two blanks: %q", c.CommandPath(), line)
			}
		}
		if !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s: no example has it: %q", c.CommandPath(), c.Example)
		}
	})
}
