package main

import (
	"errors"
	"fmt"

	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// nearest are those names that what was typed may have meant.
func nearest(typed string, known []string) []string {
	c := &cobra.Command{SuggestionsMinimumDistance: 2}
	of := map[string][]string{} // by what it may be written as
	for _, name := range known {
		if name == "" || strings.ContainsAny(name, " \t\n") {
			continue
		}
		for _, form := range forms(name) {
			if of[form] == nil {
				c.AddCommand(&cobra.Command{Use: form, Run: func(*cobra.Command, []string) {}})
			}
			of[form] = append(of[form], name)
		}
	}
	var names []string
	for _, form := range c.SuggestionsFor(typed) {
		for _, name := range of[form] {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names[:min(3, len(names))]
}

// forms are how a name may be written: a service, stack/name, by its name alone and as
// name.stack too.
func forms(name string) []string {
	stack, service, ok := strings.Cut(name, "/")
	if !ok {
		return []string{name}
	}
	return []string{name, service, service + "." + stack}
}

// didYouMean ends a message on a wrong name.
func didYouMean(typed string, known []string) string {
	names := nearest(typed, known)
	if len(names) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(names, " or ") + "?"
}

// wantCommand has commands that are there for their subcommands refuse any other
// word, and silence. The root alone shows its help.
func wantCommand(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		wantCommand(c)
	}
	if !cmd.HasSubCommands() || cmd.Runnable() {
		return
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var names []string
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				names = append(names, c.Name())
			}
		}
		switch {
		case len(args) > 0:
			return &usageError{fmt.Errorf("%s has no command %q%s; see %s --help", cmd.CommandPath(), args[0], didYouMean(args[0], names), cmd.CommandPath())}
		case cmd.HasParent():
			return &usageError{fmt.Errorf("%s wants a command: %s; see %s --help", cmd.CommandPath(), strings.Join(names, ", "), cmd.CommandPath())}
		}
		return cmd.Help()
	}
}

// flagError says in plain words what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var value *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		name := unknown.GetSpecifiedName()
		if len(name) > 1 {
			err = fmt.Errorf("%s has no flag --%s", cmd.CommandPath(), name)
			if near := nearest(name, known); len(near) > 0 {
				err = fmt.Errorf("%w; did you mean --%s?", err, strings.Join(near, " or --"))
			}
		} else {
			err = fmt.Errorf("%s has no flag -%s", cmd.CommandPath(), strings.TrimLeft(name, "-"))
		}
	case errors.As(err, &value):
		err = fmt.Errorf("--%s %s: %s", value.GetFlag().Name, value.GetValue(), wanted(value.GetFlag(), value.Unwrap()))
	}
	return &usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
}

// ofGo are words in errors of Go's own packages, which tell users nothing.
var ofGo = regexp.MustCompile(`strconv\.|netip\.|ParseAddr|ParsePrefix|time: |parse error on line|unable to parse|invalid syntax`)

// wanted says what a flag takes, where it could not take a value.
func wanted(f *pflag.Flag, err error) string {
	if err != nil && !ofGo.MatchString(err.Error()) {
		return err.Error()
	}
	switch f.Value.Type() {
	case "bool":
		return "use true or false"
	case "duration":
		return "use a duration like 90s, 5m or 2h"
	case "int":
		return "use a whole number"
	case "uint16":
		return "use a number from 0 to 65535"
	case "prefix":
		return "use a network like 10.96.0.0/16"
	case "networks":
		return "use networks like 10.244.0.0/16, with commas between them"
	case "address":
		return "use an address like 10.96.0.10"
	}
	return "it cannot be read"
}

// settingValue is the value of a setting's flag. On the command line it takes what it
// cannot read without an error, which [flagMistake] tells: so all mistakes are told
// together, and not the first alone.
type settingValue struct {
	pflag.Value
	typed string
	err   error
}

func (v *settingValue) Set(s string) error {
	v.typed, v.err = s, v.Value.Set(s)
	return nil
}

// flagMistake is what is wrong with a flag on the command line.
func flagMistake(f *pflag.Flag) error {
	if v, ok := f.Value.(*settingValue); ok && v.err != nil {
		return fmt.Errorf("--%s %s: %s; see shoal agent --help", f.Name, v.typed, wanted(f, v.err))
	}
	return nil
}

// setFrom sets a flag by another way than the command line, which where names.
func setFrom(f *pflag.Flag, where, value string) error {
	err := f.Value.Set(value)
	if v, ok := f.Value.(*settingValue); ok {
		err = v.err
	}
	if err != nil {
		return fmt.Errorf("%s %q: %s", where, value, wanted(f, err))
	}
	return nil
}

// variable is the environment's name of a setting.
func variable(flag string) string {
	return "SHOAL_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// checkVariables refuses variables that look like settings and are none.
func checkVariables(environment []string) error {
	known := []string{variable("run-dir")}
	var c settings
	c.declare(pflag.NewFlagSet("", pflag.ContinueOnError))
	for _, f := range c.flags {
		known = append(known, variable(f.Name))
	}
	var errs []error
	for _, line := range environment {
		name, _, _ := strings.Cut(line, "=")
		if strings.HasPrefix(name, "SHOAL_") && !slices.Contains(known, name) {
			errs = append(errs, fmt.Errorf("no setting is called %s%s; see shoal agent --help", name, didYouMean(name, known)))
		}
	}
	return errors.Join(errs...)
}
