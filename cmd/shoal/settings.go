package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// defaultConfigFile is read where it exists; a file named by --config must.
const defaultConfigFile = "/etc/shoal/agent.yaml"

// resolve fills the flags nobody gave on the command line: first from the
// environment (--tcp-timeout is SHOAL_TCP_TIMEOUT), then from a YAML file whose
// keys are the flags' names. It returns the logger they ask for.
func (c *settings) resolve(flags *pflag.FlagSet, o *options) (*slog.Logger, error) {
	if v, ok := os.LookupEnv("SHOAL_CONFIG"); ok && !flags.Changed("config") {
		c.file = v
	}
	fromFile, err := readSettings(c.file)
	if err != nil {
		return nil, err
	}
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		value, inFile := fromFile[f.Name]
		delete(fromFile, f.Name)
		if f.Changed || f.Name == "help" || f.Name == "config" || f.Name == "output" {
			return
		}
		env := "SHOAL_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		switch v, ok := os.LookupEnv(env); {
		case ok:
			if err := flags.Set(f.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("%s=%q: %w", env, v, err))
			}
		case inFile:
			if err := flags.Set(f.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %q: %w", c.file, f.Name, value, err))
			}
		}
	})
	for name := range fromFile {
		errs = append(errs, fmt.Errorf("%s: no setting is called %q; see shoal agent --help", c.file, name))
	}
	if len(errs) > 0 {
		return nil, &usageError{errors.Join(errs...)}
	}
	c.RunDir = o.runDir
	return logger(c.level, c.format)
}

// locate finds the agent's socket for the commands that ask it, which need no
// other setting of it.
func (o *options) locate(flags *pflag.FlagSet) {
	if flags.Changed("run-dir") {
		return
	}
	if v, ok := os.LookupEnv("SHOAL_RUN_DIR"); ok {
		o.runDir = v
	} else if file, err := readSettings(defaultConfigFile); err == nil && file["run-dir"] != "" {
		o.runDir = file["run-dir"]
	}
}

// readSettings reads a YAML mapping of scalars, and lists of them, which
// become comma-separated as flags want them.
func readSettings(file string) (map[string]string, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && file == defaultConfigFile {
		return nil, nil
	}
	if err != nil {
		return nil, &usageError{fmt.Errorf("--config: %w", err)}
	}
	raw := map[string]yaml.Node{}
	if err := yaml.NewDecoder(bytes.NewReader(b)).Decode(&raw); err != nil && !errors.Is(err, io.EOF) {
		return nil, &usageError{fmt.Errorf("%s: %w; write it as lines of name: value", file, err)}
	}
	settings := map[string]string{}
	for name, node := range raw {
		switch node.Kind {
		case yaml.ScalarNode:
			settings[name] = node.Value
		case yaml.SequenceNode:
			var list []string
			if err := node.Decode(&list); err != nil {
				return nil, &usageError{fmt.Errorf("%s: %s: %w", file, name, err)}
			}
			settings[name] = strings.Join(list, ",")
		default:
			return nil, &usageError{fmt.Errorf("%s: %s: want a value or a list of values", file, name)}
		}
	}
	return settings, nil
}
