package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"shoal/api"
	"shoal/model"
)

// completionTime is how long a shell waits for names.
const completionTime = time.Second

// names are what an argument can be, by the agent; none where it does not answer.
type names func(context.Context, *api.Client) []string

func identities[T identified](items []T, err error) []string {
	var all []string
	for _, item := range items {
		all = append(all, item.Identity())
	}
	return all
}

func serviceNames(ctx context.Context, c *api.Client) []string { return identities(c.Services(ctx)) }
func nodeNames(ctx context.Context, c *api.Client) []string    { return identities(c.Nodes(ctx)) }
func tokenNames(ctx context.Context, c *api.Client) []string   { return identities(c.Tokens(ctx)) }

// containerNames are those of containers with tasks.
func containerNames(ctx context.Context, c *api.Client) []string { return identities(c.Tasks(ctx)) }

// ownContainerNames are those of containers of this host with tasks.
func ownContainerNames(ctx context.Context, c *api.Client) []string {
	status, err := c.Status(ctx)
	if err != nil {
		return nil
	}
	tasks, err := c.Tasks(ctx)
	return identities(slices.DeleteFunc(tasks, func(t api.TaskView) bool { return t.Node != status.Node }), err)
}

// portNames are the ports that labels give services, "shop/web:80", and those that they
// publish, of any host and of each: ":8080", "b:8080".
func portNames(ctx context.Context, c *api.Client) (all []string) {
	services, err := c.Services(ctx)
	if err != nil {
		return nil
	}
	for _, s := range services {
		for _, p := range s.Ports {
			all = append(all, s.ID+":"+portText(p.Port, p.Protocol))
		}
	}
	tasks, err := c.Tasks(ctx)
	if err != nil {
		return all
	}
	hosts := append([]string{""}, nodeNames(ctx, c)...)
	for _, t := range tasks {
		for _, p := range t.Spec.Publish {
			for _, host := range hosts {
				all = append(all, host+":"+portText(p.Published, p.Protocol))
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// portText is a port as trace and explain take it.
func portText(port uint16, p model.Protocol) string {
	if p == model.TCP {
		return fmt.Sprint(port)
	}
	return fmt.Sprintf("%d/%s", port, p)
}

// anyOf are the names of several kinds.
func anyOf(kinds ...names) names {
	return func(ctx context.Context, c *api.Client) (all []string) {
		for _, kind := range kinds {
			all = append(all, kind(ctx, c)...)
		}
		return all
	}
}

// completion answers a shell that asks what an argument, or a flag, can be.
func (o *options) completion(of names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		o.locate(cmd.Flags())
		ctx, cancel := context.WithTimeout(context.Background(), completionTime)
		defer cancel()
		return of(ctx, api.NewClient(api.Socket(o.runDir))), cobra.ShellCompDirectiveNoFileComp
	}
}

// firstArgument completes the first argument alone; once it has a colon, by ports, if
// the command takes some.
func (o *options) firstArgument(of, ports names) cobra.CompletionFunc {
	answer, answerPort := o.completion(of), o.completion(ports)
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if ports != nil && strings.Contains(typed, ":") {
			all, directive := answerPort(cmd, args, typed)
			return slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, typed) }), directive
		}
		return answer(cmd, args, typed)
	}
}

// choices are flags that take one of a few words.
var choices = map[string][]string{
	"output":           {"table", "wide", "json", "yaml", "name", templatePrefix},
	"log-level":        {"debug", "info", "warn", "error"},
	"log-format":       {"text", "json"},
	"data-plane":       {"auto", "ipvs", "nftables"},
	"backend":          {"auto", "host-gw", "vxlan", "ipip"},
	"servers":          {"auto", "manual"},
	"socket-balancing": {"auto", "off"},
}

// arguments is what the commands that take a name take.
var arguments = map[string]names{
	"shoal services": serviceNames, "shoal service ls": serviceNames, "shoal tasks": serviceNames, "shoal task ls": serviceNames, "shoal service rm": serviceNames,
	"shoal explain": anyOf(serviceNames, containerNames), "shoal trace": anyOf(serviceNames, containerNames), "shoal dns": serviceNames,
	"shoal node rm": nodeNames, "shoal server promote": nodeNames, "shoal server demote": nodeNames,
	"shoal token rm": tokenNames, "shoal stop": ownContainerNames,
}

// argumentPorts is what the commands take that take a port.
var argumentPorts = map[string]names{"shoal explain": portNames, "shoal trace": portNames}

// suggestName is what the first argument of a command, which names nothing, may
// have meant.
func suggestName(ctx context.Context, cmd *cobra.Command) string {
	of, args := cmd.ValidArgsFunction, cmd.Flags().Args()
	if of == nil || len(args) == 0 {
		return ""
	}
	cmd.SetContext(ctx)
	known, _ := of(cmd, nil, "")
	return didYouMean(args[0], known)
}

// completeAll has all commands complete names and words.
func completeAll(o *options, cmd *cobra.Command, path string) {
	if of, ok := arguments[path]; ok && cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = o.firstArgument(of, argumentPorts[path])
	}
	if cmd.Flags().Lookup("from") != nil {
		_ = cmd.RegisterFlagCompletionFunc("from", o.completion(containerNames)) // fails where it is there already
	}
	for flag, words := range choices {
		if cmd.Flags().Lookup(flag) != nil || cmd.PersistentFlags().Lookup(flag) != nil {
			_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
		}
	}
	for _, c := range cmd.Commands() {
		completeAll(o, c, path+" "+c.Name())
	}
}
