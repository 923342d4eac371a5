package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write what is generated in docs/cli.md and docs/configuration.md")

// generated has a page of the documentation hold what the source says between a comment
// <!-- KIND: WORDS --> and <!-- end -->, by of.
func generated(t *testing.T, page, kind string, of func(words []string) string) {
	t.Helper()
	file := "../../docs/" + page
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	part := regexp.MustCompile(`(?s)(<!-- ` + kind + `: ([^>]*) -->\n).*?(<!-- end -->)`)
	if !part.Match(doc) {
		t.Fatalf("docs/%s has no place for %s", page, kind)
	}
	now := part.ReplaceAllFunc(doc, func(old []byte) []byte {
		m := part.FindSubmatch(old)
		return fmt.Appendf(nil, "%s%s\n%s", m[1], of(strings.Fields(string(m[2]))), m[3])
	})
	if *update {
		err = os.WriteFile(file, now, 0o644)
	} else if diff := gocmp.Diff(strings.Split(string(doc), "\n"), strings.Split(string(now), "\n")); diff != "" {
		t.Errorf("docs/%s is out of date: go test ./cmd/shoal -run Documented -update writes it anew\n%s", page, diff)
	}
	if err != nil {
		t.Fatal(err)
	}
}

var defaultInHelp = regexp.MustCompile(` ?\(default: ([^)]*)\)`)

// TestTheSettingsAreDocumented: docs/configuration.md has a line for each, in the section of one subject.
func TestTheSettingsAreDocumented(t *testing.T) {
	var c settings
	c.declare(pflag.NewFlagSet("", pflag.ContinueOnError))
	flags := map[string]*pflag.Flag{"run-dir": root(screen{}).PersistentFlags().Lookup("run-dir")}
	for _, f := range c.flags {
		flags[f.Name] = f
	}
	generated(t, "configuration.md", "settings", func(names []string) string {
		lines := []string{"| flag | variable | in the file | default | same on all hosts | what it does |", "|---|---|---|---|---|---|"}
		for _, name := range names {
			f := flags[name]
			delete(flags, name)
			if f == nil {
				t.Errorf("docs/configuration.md tells of --%s, which is no setting, or tells of it twice", name)
				continue
			}
			lines = append(lines, settingLine(f))
		}
		return strings.Join(lines, "\n")
	})
	for name := range flags {
		t.Errorf("--%s has no place in docs/configuration.md", name)
	}
}

func settingLine(f *pflag.Flag) string {
	key, same, initial := "`"+f.Name+"`", "", ""
	if f.Name == "config" {
		key = ""
	}
	if slices.Contains(sameEverywhere, f.Name) {
		same = "yes"
	}
	if f.DefValue != "" {
		initial = "`" + f.DefValue + "`"
	}
	does := strings.TrimSuffix(f.Usage, sameOnAllHosts)
	if m := defaultInHelp.FindStringSubmatch(does); m != nil {
		initial, does = cmp.Or(initial, m[1]), strings.Replace(does, m[0], "", 1)
	}
	return fmt.Sprintf("| `--%s` | `%s` | %s | %s | %s | %s |", f.Name, variable(f.Name), key, initial, same, strings.ReplaceAll(does, "|", `\|`))
}

// TestTheCommandsAreDocumented: docs/cli.md has a section for each, with what its help says.
func TestTheCommandsAreDocumented(t *testing.T) {
	generated(t, "cli.md", "commands", func([]string) string {
		var sections []string
		everyCommand(func(c *cobra.Command) {
			if c.HasParent() {
				sections = append(sections, commandSection(c))
			}
		})
		return strings.Join(sections, "\n")
	})
}

// commandSection is a command's help, but for the settings of an agent and what all
// commands take.
func commandSection(c *cobra.Command) string {
	var b strings.Builder
	says := c.Long
	if says == "" {
		says = c.Short + "."
	}
	fmt.Fprintf(&b, "%s %s\n\n```\n%s\n\n", strings.Repeat("#", strings.Count(c.CommandPath(), " ")+1), c.CommandPath(), says)
	if c.HasSubCommands() {
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(&b, "%s   %s\n", sub.CommandPath(), sub.Short)
			}
		}
		return b.String() + "```\n"
	}
	fmt.Fprintf(&b, "%s\n\n%s\n", c.UseLine(), c.Example)
	own, settings := ownFlags(c)
	if own.HasAvailableFlags() {
		fmt.Fprintf(&b, "\n%s\n", strings.TrimRight(own.FlagUsagesWrapped(helpWidth), "\n"))
	}
	b.WriteString("```\n")
	if len(settings) > 0 {
		fmt.Fprintf(&b, "\nIt takes the agent's [settings](configuration.md), and goes by %s.\n", strings.Join(settings, ", "))
	}
	return b.String()
}

// ownFlags are the flags of a command alone, and the settings among the others that it
// shows.
func ownFlags(c *cobra.Command) (own *pflag.FlagSet, shown []string) {
	var all settings
	all.declare(pflag.NewFlagSet("", pflag.ContinueOnError))
	own = pflag.NewFlagSet("", pflag.ContinueOnError)
	hidden, settings := false, c.Flags().Lookup("state-dir") != nil
	c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		switch setting := settings && slices.ContainsFunc(all.flags, func(s *pflag.Flag) bool { return s.Name == f.Name }); {
		case !setting && f.Name != "help":
			own.AddFlag(f)
		case setting && f.Hidden:
			hidden = true
		case setting:
			shown = append(shown, "`--"+f.Name+"`")
		}
	})
	if len(shown) > 0 && !hidden {
		shown = []string{"all of them"}
	}
	return own, shown
}

// TestWhatHostsCompareIsMarked: the settings that the agents compare are those of
// sameEverywhere.
func TestWhatHostsCompareIsMarked(t *testing.T) {
	var c settings
	c.declare(pflag.NewFlagSet("", pflag.ContinueOnError))
	var compared []string
	for name := range c.Shared().Values() {
		compared = append(compared, name)
	}
	if diff := gocmp.Diff(slices.Sorted(slices.Values(compared)), slices.Sorted(slices.Values(sameEverywhere))); diff != "" {
		t.Errorf("compared, and marked:\n%s", diff)
	}
}
