package main

import (
	"cmp"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"shoal/api"
)

// source is where the value of a setting comes from.
type source struct{ kind, place string }

// The kinds of sources, and what their place is.
const (
	fromFlag     = "flag"
	fromVariable = "variable" // its name
	fromFileLine = "file"     // PATH:LINE
	byDefault    = "default"
)

// secretSettings are those whose value nobody is shown.
var secretSettings = map[string]bool{"token": true}

// userInURL is who a URL is asked as, maybe with a password.
var userInURL = regexp.MustCompile(`://[^/@,]*@`)

// secretShown stands for a secret.
const secretShown = "(not shown)"

// effective are the settings as they were read and completed, each with its source.
func (c *settings) effective() (all []api.Setting) {
	for _, f := range c.flags {
		from := c.from[f.Name]
		s := api.Setting{Name: f.Name, Value: valueText(f), Source: cmp.Or(from.kind, byDefault), Place: from.place}
		if secretSettings[f.Name] && s.Value != "" {
			s.Value = secretShown
		}
		s.Value = userInURL.ReplaceAllString(s.Value, "://"+secretShown+"@")
		all = append(all, s)
	}
	return all
}

// valueText is a setting's value as a flag takes it.
func valueText(f *pflag.Flag) string {
	value := f.Value
	if v, ok := value.(*settingValue); ok {
		value = v.Value
	}
	if list, ok := value.(pflag.SliceValue); ok {
		return strings.Join(list.GetSlice(), ",")
	}
	return value.String()
}

// settingsListing lists settings.
func settingsListing(fetch func(*cobra.Command, []string) ([]api.Setting, error)) listing[api.Setting] {
	return listing[api.Setting]{
		fetch: fetch,
		columns: []column[api.Setting]{
			col("SETTING", func(s api.Setting) any { return s.Name }),
			col("VALUE", func(s api.Setting) any { return s.Value }),
			col("SOURCE", func(s api.Setting) any {
				text := strings.TrimSpace(s.Source + " " + s.Place)
				if s.Source == byDefault {
					return painted{text, faint}
				}
				return text
			}),
		},
	}
}

func settingsCommand(o *options) *cobra.Command {
	return listCommand(o, &cobra.Command{
		Use:   "settings",
		Short: "List the settings of this host's agent, and where they come from",
		Long: `List the settings that this host's agent runs with, and where each comes from: a
flag, a variable, a line of the file of settings, or the default. Secrets are
not shown. "shoal agent --check" lists those that an agent would start with.`,
		Example: "  sudo shoal settings\n  sudo shoal settings -o json",
	}, settingsListing(func(cmd *cobra.Command, _ []string) ([]api.Setting, error) { return o.client().Settings(cmd.Context()) }))
}
