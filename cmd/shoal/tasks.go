package main

import (
	"time"

	"github.com/spf13/cobra"

	"shoal/api"
	"shoal/model"
)

func tasksCommand(o *options) *cobra.Command {
	return listCommand(o, &cobra.Command{
		Use:   "tasks [SERVICE]",
		Short: "List the tasks, of one service or of all",
		Long: `List the tasks, of one service or of all. The reason is what a task that starts
waits for.

` + whichService,
		Example: "  sudo shoal tasks\n  sudo shoal tasks shop/web -o wide",
		Args:    atMostOne("SERVICE"),
	}, listing[api.TaskView]{
		fetch: func(cmd *cobra.Command, args []string) ([]api.TaskView, error) { return tasksOf(cmd, o, args) },
		columns: []column[api.TaskView]{
			col("SERVICE", func(t api.TaskView) any { return t.Service }),
			col("CONTAINER", func(t api.TaskView) any { return short(t.Container) }),
			col("NAME", func(t api.TaskView) any { return t.Name }),
			col("NODE", func(t api.TaskView) any { return t.Node }),
			col("ADDRESS", func(t api.TaskView) any { return addrText(t.Addr) }),
			col("STATE", func(t api.TaskView) any { return painted{string(t.State), stateTone(t.State)} }),
			col("WEIGHT", func(t api.TaskView) any { return t.Weight }),
			wideCol("PORTS", func(t api.TaskView) any { return portsText(t.Spec.Ports) }),
			wideCol("DRAIN", func(t api.TaskView) any { return t.Drain }),
			wideCol("STARTED", func(t api.TaskView) any { return t.Started.Local().Format(time.DateTime) }),
			ageCol("SINCE", func(t api.TaskView) time.Time { return t.Since }),
			col("REASON", func(t api.TaskView) any { return t.Reason }),
		},
	})
}

// tasksOf are the tasks of the service that args names, or all.
func tasksOf(cmd *cobra.Command, o *options, args []string) ([]api.TaskView, error) {
	if len(args) == 0 {
		return o.client().Tasks(cmd.Context())
	}
	return o.client().TasksOf(cmd.Context(), args[0])
}

func stateTone(s model.State) tone {
	switch s {
	case model.Running:
		return good
	case model.Unhealthy, model.Lost, model.Unreached:
		return bad
	}
	return wary
}

func taskCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "task", Short: "List the tasks"}
	cmd.AddCommand(ls(tasksCommand(o)))
	return cmd
}
