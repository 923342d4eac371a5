package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shoal/api"
	"shoal/docs"
	"shoal/model"
)

func problemsCommand(o *options) *cobra.Command {
	var local bool
	cmd := listCommand(o, &cobra.Command{
		Use:   "problems [CODE]",
		Short: "List what does not work in the cluster, and what to do about it",
		Long: `List what does not work on any host of the cluster, and what to do about it.
Each host's agent is asked when the command is run; one that does not answer is
a problem itself. With --local, only this host's agent tells what it knows.

Each problem has a code. With a CODE, print what that means, how to look and
what to do: the same is in docs/troubleshooting.md.`,
		Example: "  sudo shoal problems\n  sudo shoal problems --watch\n  sudo shoal problems --local -o json\n  shoal problems host-dead",
		Args:    atMostOne("CODE"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return docs.Codes(), cobra.ShellCompDirectiveNoFileComp
		},
	}, listing[model.Problem]{
		fetch: func(cmd *cobra.Command, _ []string) ([]model.Problem, error) {
			if local {
				return o.client().Problems(cmd.Context())
			}
			return o.client().ClusterProblems(cmd.Context())
		},
		none:   "no problems",
		joined: joinProblems,
		called: func(p model.Problem) string { return fmt.Sprintf("%s of %s %s", p.Code, p.Kind, p.Object) },
		columns: []column[model.Problem]{
			col("HOST", func(p model.Problem) any { return p.Node }),
			col("CODE", func(p model.Problem) any { return p.Code }),
			col("WHAT", func(p model.Problem) any {
				if p.Notice {
					return p.Kind + " (notice)"
				}
				return p.Kind
			}),
			col("NAME", func(p model.Problem) any { return p.Object }),
			ageCol("SINCE", func(p model.Problem) time.Time { return p.Since }),
			col("REASON", func(p model.Problem) any { return p.Reason }),
		},
	})
	cmd.Flags().BoolVar(&local, "local", false, "what this host's agent knows, without asking the others")
	list := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return list(cmd, args)
		}
		if cmd.Flags().Changed("watch") || local {
			return &usageError{errors.New("--watch and --local are of the list: give no CODE with them")}
		}
		return o.showCode(cmd.OutOrStdout(), args[0])
	}
	return cmd
}

// joinProblems makes one of each problem, however many hosts have it.
func joinProblems(problems []model.Problem) (joined []model.Problem) {
	for _, g := range model.GroupProblems(problems) {
		g.Node = someNames(g.Nodes)
		joined = append(joined, g.Problem)
	}
	return joined
}

// mostNames is how many names of a list are spelled out.
const mostNames = 3

// someNames are names in one cell, the first of them where there are many.
func someNames(names []string) string {
	if more := len(names) - mostNames; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:mostNames], ", "), more)
	}
	return strings.Join(names, ", ")
}

// showCode prints what the documentation says of a code.
func (o *options) showCode(w io.Writer, code string) error {
	text, ok := docs.Problem(code)
	if !ok {
		return &usageError{fmt.Errorf("no problem has the code %q: shoal problems lists those that there are, and docs/troubleshooting.md has all", code)}
	}
	return o.show(w, map[string]string{"code": code, "text": text}, func(w io.Writer) { fmt.Fprintln(w, text) })
}

// statusView is what shoal status shows.
type statusView struct {
	api.Status
	Health     string          `json:"health"`
	DegradedBy []model.Problem `json:"degradedBy"`
}
