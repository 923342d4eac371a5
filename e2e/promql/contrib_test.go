// Package promql has the tests of what contrib has for Prometheus and Grafana: each expression is parsed by Prometheus' own
// parser, and each name and label in it has to be one that an agent has, as docs/metrics.md lists them.
package promql

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// metrics are the labels of each metric, by its name in expressions.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{"up": {}, "process_resident_memory_bytes": {}}
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\| ([^|]*) \\|").FindAllStringSubmatch(string(doc), -1) {
		var labels []string
		if m[3] != "–" {
			labels = strings.Split(m[3], ", ")
		}
		if m[2] != "histogram" {
			all[m[1]] = labels
			continue
		}
		all[m[1]+"_count"], all[m[1]+"_sum"] = labels, labels
		all[m[1]+"_bucket"] = append(slices.Clone(labels), "le")
	}
	if len(all) < 30 {
		t.Fatalf("docs/metrics.md has no more than %d metrics", len(all))
	}
	return all
}

// scraped are the labels that Prometheus itself adds.
var scraped = []string{"job", "instance"}

// check says what of an expression no agent has.
func check(expr string, all map[string][]string) (wrong []string, err error) {
	e, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		return nil, err
	}
	has := func(n parser.Node) map[string]bool { // labels of what is selected in n
		labels := map[string]bool{}
		parser.Inspect(n, func(n parser.Node, _ []parser.Node) error {
			if s, ok := n.(*parser.VectorSelector); ok {
				for _, l := range append(all[s.Name], scraped...) {
					labels[l] = true
				}
			}
			return nil
		})
		return labels
	}
	need := func(of parser.Node, labels []string) {
		there := has(of)
		for _, l := range labels {
			if !there[l] {
				wrong = append(wrong, "label "+l+" in "+of.String())
			}
		}
	}
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			if _, ok := all[n.Name]; !ok {
				wrong = append(wrong, "metric "+n.Name)
				return nil
			}
			for _, m := range n.LabelMatchers {
				if m.Name != "__name__" {
					need(n, []string{m.Name})
				}
			}
		case *parser.AggregateExpr:
			need(n.Expr, n.Grouping)
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				need(n.LHS, n.VectorMatching.MatchingLabels)
				need(n.RHS, n.VectorMatching.MatchingLabels)
			}
		}
		return nil
	})
	return wrong, nil
}

func TestExpressionsAreChecked(t *testing.T) {
	all := map[string][]string{"a": {"stack"}, "b_bucket": {"le"}}
	for expr, wrong := range map[string]int{
		`sum by (stack, instance) (rate(a{stack="x",job="y"}[5m]))`: 0,
		`histogram_quantile(0.9, sum by (le) (b_bucket))`:           0,
		`c`:                       1,
		`a{service="x"}`:          1,
		`sum by (service) (a)`:    1,
		`a / on (service) a`:      2,
		`rate(c[5m]) + a{x!~"y"}`: 2,
	} {
		if got, err := check(expr, all); err != nil || len(got) != wrong {
			t.Errorf("%s: %v, %v; want %d", expr, got, err, wrong)
		}
	}
	if _, err := check("sum by", all); err == nil {
		t.Error("no expression passes for one")
	}
}

func TestAlertsAskForWhatThereIs(t *testing.T) {
	files, err := filepath.Glob("../../contrib/prometheus/*.rules.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no rules:", err)
	}
	all := metrics(t)
	for _, file := range files {
		var rules struct {
			Groups []struct {
				Rules []struct {
					Alert, Expr string
					Annotations map[string]string
				}
			}
		}
		b, err := os.ReadFile(file)
		if err == nil {
			err = yaml.Unmarshal(b, &rules)
		}
		if err != nil {
			t.Fatal(err)
		}
		tested, err := os.ReadFile(strings.TrimSuffix(file, ".yaml") + ".test.yaml")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, g := range rules.Groups {
			for _, r := range g.Rules {
				n++
				if wrong, err := check(r.Expr, all); err != nil || len(wrong) > 0 {
					t.Errorf("%s: no agent has %v; %v", r.Alert, wrong, err)
				}
				if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
					t.Errorf("%s says not what it is and what to do", r.Alert)
				}
				if !strings.Contains(string(tested), `alertname="`+r.Alert+`"`) {
					t.Errorf("%s fires in no test of %s", r.Alert, file)
				}
			}
		}
		if n == 0 {
			t.Errorf("%s has no rules", file)
		}
	}
}

// inDashboard stands for what Grafana puts in the place of variables.
var inDashboard = strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*", "$stack", ".*")

func TestTheDashboardAsksForWhatThereIs(t *testing.T) {
	var board struct {
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
		Panels []struct {
			Title, Type string
			Targets     []struct{ Expr string }
		}
	}
	b, err := os.ReadFile("../../contrib/grafana/shoal.json")
	if err == nil {
		err = json.Unmarshal(b, &board)
	}
	if err != nil {
		t.Fatal(err)
	}
	all := metrics(t)
	shown := map[string]bool{}
	for _, p := range board.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("the panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			expr := inDashboard.Replace(target.Expr)
			if wrong, err := check(expr, all); err != nil || len(wrong) > 0 {
				t.Errorf("%s: no agent has %v; %v", p.Title, wrong, err)
			}
			for name := range maps.Keys(all) {
				shown[name] = shown[name] || strings.Contains(expr, name)
			}
		}
	}
	values := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
	for _, v := range board.Templating.List {
		if v.Type != "query" {
			continue
		}
		m := values.FindStringSubmatch(v.Definition)
		if m == nil {
			t.Errorf("the variable %s asks for %q", v.Name, v.Definition)
		} else if wrong, err := check("sum by ("+m[2]+") ("+m[1]+")", all); err != nil || len(wrong) > 0 {
			t.Errorf("the variable %s: no agent has %v; %v", v.Name, wrong, err)
		}
	}
	for _, name := range []string{"shoal_nodes", "shoal_services", "shoal_problems", "shoal_service_connections_total", "shoal_node_up", "shoal_store_connected"} {
		if !shown[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
}
