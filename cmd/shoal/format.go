package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"

	"shoal/api"
	"shoal/internal/printable"
)

// format is how -o has things printed.
type format struct {
	kind     string             // "table", "wide", "json", "yaml", "name" or "go-template"
	template *template.Template // of "go-template"
}

const (
	formats        = "table, wide, json, yaml, name or go-template=TEMPLATE"
	templatePrefix = "go-template="
)

func parseFormat(s string) (format, error) {
	switch s {
	case "table", "wide", "json", "yaml", "name":
		return format{kind: s}, nil
	}
	text, ok := strings.CutPrefix(s, templatePrefix)
	if !ok {
		return format{}, &usageError{fmt.Errorf("--output %q: use %s", s, formats)}
	}
	t, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"join":  join,
		"json":  func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
		"lower": strings.ToLower, "upper": strings.ToUpper, "split": strings.Split,
	}).Parse(text)
	if err != nil {
		return format{}, &usageError{fmt.Errorf("--output %s: %s", s, strings.TrimPrefix(err.Error(), "template: :"))}
	}
	return format{"go-template", t}, nil
}

// join is strings.Join for what JSON has.
func join(list []any, by string) string {
	var all []string
	for _, item := range list {
		all = append(all, fmt.Sprint(item))
	}
	return strings.Join(all, by)
}

// tabular tells whether a person is to read it.
func (f format) tabular() bool { return f.kind == "table" || f.kind == "wide" }

// identified is what -o name can print.
type identified interface{ Identity() string }

// encode prints a value in a form for programs.
func (f format) encode(w io.Writer, v any) error {
	switch f.kind {
	case "name":
		return f.names(w, v)
	case "go-template":
		return f.execute(w, v)
	}
	text, err := api.Marshal(v)
	if err != nil {
		return err
	}
	if f.kind == "yaml" {
		if text, err = yamlOf(text); err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "  "); err != nil {
		return err
	}
	fmt.Fprintln(&indented)
	_, err = w.Write(indented.Bytes())
	return err
}

// each are the objects of a value: itself, or those of a list.
func each(v any) []any {
	list := reflect.ValueOf(v)
	if list.Kind() != reflect.Slice {
		return []any{v}
	}
	var all []any
	for i := range list.Len() {
		all = append(all, list.Index(i).Interface())
	}
	return all
}

func (f format) names(w io.Writer, v any) error {
	for _, item := range each(v) {
		object, ok := item.(identified)
		if !ok {
			return &usageError{errors.New("--output name: what this command prints has no name; use table, json, yaml or go-template=TEMPLATE")}
		}
		fmt.Fprintln(w, cell(object.Identity()))
	}
	return nil
}

// execute has the template print each object, in a line of its own.
func (f format) execute(w io.Writer, v any) error {
	for _, item := range each(v) {
		data, err := dataOf(item)
		if err != nil {
			return err
		}
		var line bytes.Buffer
		if err := f.template.Execute(&line, data); err != nil {
			return templateError(err, data)
		}
		fmt.Fprintln(w, line.String())
	}
	return nil
}

var noEntry = regexp.MustCompile(`at <(.*)>: map has no entry for key "(.*)"`)

// templateError says in plain words what is wrong with a template.
func templateError(err error, data any) error {
	m := noEntry.FindStringSubmatch(err.Error())
	object, ok := data.(map[string]any)
	if m == nil || !ok {
		text := err.Error()
		if _, after, found := strings.Cut(text, "executing "); found {
			text = after
		}
		return &usageError{fmt.Errorf("--output %s…: %s", templatePrefix, text)}
	}
	var fields []string
	for name := range object {
		fields = append(fields, name)
	}
	slices.Sort(fields)
	return &usageError{fmt.Errorf("--output: %s: there is no field %q; there are %s", m[1], m[2], strings.Join(fields, ", "))}
}

// dataOf is a value as its JSON has it, with what JSON leaves out as empty.
func dataOf(v any) (data any, err error) {
	text, err := api.Marshal(v)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&data); err != nil {
		return nil, err
	}
	complete(data, reflect.TypeOf(v))
	return data, nil
}

// complete adds to the objects in data those fields of their type that are not there.
func complete(data any, t reflect.Type) {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch d := data.(type) {
	case []any:
		if t.Kind() == reflect.Slice || t.Kind() == reflect.Array {
			for _, item := range d {
				complete(item, t.Elem())
			}
		}
	case map[string]any:
		if t.Kind() != reflect.Struct {
			return
		}
		for _, f := range reflect.VisibleFields(t) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !f.IsExported() || name == "" || name == "-" {
				continue
			}
			if value, there := d[name]; there {
				complete(value, f.Type)
			} else if f.Type.Kind() == reflect.Slice {
				d[name] = []any{}
			} else {
				d[name] = ""
			}
		}
	}
}

// yamlOf is JSON as YAML, in the same order.
func yamlOf(text []byte) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	unstyle(&doc)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	err := errors.Join(enc.Encode(&doc), enc.Close())
	return b.Bytes(), err
}

// unstyle has YAML written as people do, not as the JSON that it was. Text that is
// escaped on its way out stays in double quotes, where that means the same.
func unstyle(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode || printable.Text(n.Value) == n.Value {
		n.Style = 0
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && strings.Contains(n.Value, "\n") {
		n.Style = yaml.LiteralStyle
	}
	for _, c := range n.Content {
		unstyle(c)
	}
}
