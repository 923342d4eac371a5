package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// defaultConfigFile is read where it exists; a file named by --config must.
const defaultConfigFile = "/etc/shoal/agent.yaml"

// resolve fills the settings that nobody gave on the command line: first from the
// environment (--tcp-timeout is SHOAL_TCP_TIMEOUT), then from a YAML file whose
// keys are the flags' names. It returns the logger they ask for. The error has all
// that cannot be read, wherever it is.
func (c *settings) resolve(flags *pflag.FlagSet, o *options) (*slog.Logger, error) {
	if v, ok := os.LookupEnv(variable("config")); ok && !flags.Changed("config") {
		c.file = v
	}
	fromFile, err := readSettings(c.file)
	c.fileUnread = err != nil
	errs := []error{checkVariables(os.Environ()), err}
	if f := flags.Lookup("run-dir"); f != nil {
		c.flags = append(c.flags, f)
	}
	c.from, c.wrong = map[string]source{}, map[string]bool{}
	var known []string
	for _, f := range c.flags {
		inFile, ok := fromFile[f.Name]
		if f.Name != "config" {
			delete(fromFile, f.Name)
			known = append(known, f.Name)
		} else {
			ok = false
		}
		v, inEnvironment := os.LookupEnv(variable(f.Name))
		var err error
		switch {
		case f.Changed:
			c.from[f.Name] = source{kind: fromFlag}
			err = flagMistake(f)
		case inEnvironment:
			c.from[f.Name] = source{fromVariable, variable(f.Name)}
			err = setFrom(f, variable(f.Name), v)
		case ok:
			c.from[f.Name] = source{fromFileLine, inFile.place}
			if err = inFile.err; err == nil {
				err = setFrom(f, inFile.place+": "+f.Name, inFile.value)
			}
		}
		if err != nil {
			c.wrong[f.Name] = true
			errs = append(errs, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(fromFile)) {
		errs = append(errs, fmt.Errorf("%s: no setting is called %q%s; see shoal agent --help", fromFile[name].place, name, didYouMean(name, known)))
	}
	c.RunDir = o.runDir
	log, err := logger(c.level, c.format)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, &usageError{err}
	}
	return log, nil
}

// check returns a mistake for each setting that cannot work. What follows from one
// that could not be read, which is told already, is none.
func (c *settings) check() error {
	err := c.Config.Check()
	if c.fileUnread { // nobody knows what else is set
		return nil
	}
	var bad []error
	for _, err := range eachError(err) {
		follows := slices.ContainsFunc(flagNames.FindAllString(err.Error(), -1), func(name string) bool { return c.wrong[name[2:]] })
		if !follows {
			bad = append(bad, err)
		}
	}
	return errors.Join(bad...)
}

var flagNames = regexp.MustCompile(`--[a-z]+(-[a-z]+)*`)

// eachError are the errors that were joined to one.
func eachError(err error) (all []error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			all = append(all, eachError(err)...)
		}
		return all
	}
	if err != nil {
		all = append(all, err)
	}
	return all
}

// locate finds the agent's socket for the commands that ask it, which need no
// other setting of it.
func (o *options) locate(flags *pflag.FlagSet) {
	if flags.Changed("run-dir") {
		return
	}
	if v, ok := os.LookupEnv("SHOAL_RUN_DIR"); ok {
		o.runDir = v
	} else if file, _ := readSettings(o.configFile()); file["run-dir"].value != "" {
		o.runDir = file["run-dir"].value
	}
}

// configFile is the file of settings that an agent would read which is started as this
// command was.
func (o *options) configFile() string {
	return cmp.Or(o.config, os.Getenv(variable("config")), defaultConfigFile)
}

// inFile is a value in the file of settings, and where it is, PATH:LINE; or why it is
// none.
type inFile struct {
	value, place string
	err          error
}

// readSettings reads a YAML mapping of scalars, and lists of them, which
// become comma-separated as flags want them. The error is of the
// file as a whole.
func readSettings(file string) (map[string]inFile, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && file == defaultConfigFile {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	var doc yaml.Node
	err = yaml.NewDecoder(bytes.NewReader(b)).Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err == nil && doc.Content[0].Kind != yaml.MappingNode && doc.Content[0].Tag != "!!null" {
		err = errors.New("it is not a list of names with values")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; write it as lines of name: value", file, err)
	}
	settings := map[string]inFile{}
	pairs := doc.Content[0].Content
	for i := 0; i+1 < len(pairs); i += 2 {
		name, at := pairs[i].Value, inFile{place: fmt.Sprintf("%s:%d", file, pairs[i].Line)}
		before, twice := settings[name]
		at.value, at.err = settingText(pairs[i+1])
		if twice {
			at.err = fmt.Errorf("it is at %s before", before.place)
		}
		if at.err != nil {
			at.err = fmt.Errorf("%s: %s: %w", at.place, name, at.err)
		}
		settings[name] = at
	}
	return settings, nil
}

// settingText is what the file says of a setting, as a flag takes it.
func settingText(node *yaml.Node) (string, error) {
	switch node.Kind {
	case yaml.ScalarNode:
		return node.Value, nil
	case yaml.SequenceNode:
		var list []string
		for _, item := range node.Content {
			if item.Kind != yaml.ScalarNode {
				return "", errors.New("want a list of values alone")
			}
			list = append(list, item.Value)
		}
		return strings.Join(list, ","), nil
	}
	return "", errors.New("want a value or a list of values")
}
