package hosts

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Report is what came of the latest runs of some suites, step by step.
type Report struct{ Suites []*SuiteReport }

// SuiteReport is what came of the hosts of one suite.
type SuiteReport struct {
	Suite    string
	Version  string // of shoal
	Date     time.Time
	System   string // the distribution's own name
	Kernel   string
	Engine   string // its version
	Firewall string // what the engine's rules are written by
	Plane    string // the data plane
	Hosts    int
	Took     time.Duration
	Steps    []*StepReport
}

// StepReport is what came of one step.
type StepReport struct {
	Name     string
	About    string    // what was done
	Version  string    // of shoal; "": the suite's
	Date     time.Time // likewise
	Took     time.Duration
	Failures []string // what did not hold
}

// merge takes steps of a later run in place of those of the same names.
func (s *SuiteReport) merge(later *SuiteReport) {
	for _, step := range later.Steps {
		step.Version, step.Date = later.Version, later.Date
		i := slices.IndexFunc(s.Steps, func(o *StepReport) bool { return o.Name == step.Name })
		if i < 0 {
			s.Steps = append(s.Steps, step)
		} else {
			s.Steps[i] = step
		}
	}
}

// Failed says whether anything did not hold.
func (r *Report) Failed() bool {
	for _, s := range r.Suites {
		for _, step := range s.Steps {
			if len(step.Failures) > 0 {
				return true
			}
		}
	}
	return false
}

// Markdown is the report as a page of the documentation.
func (r *Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Tested hosts

What `+"`make test-hosts`"+` found, which wrote this page. It makes virtual machines of stock Debian, with the kernel, the engine and the
firewalls that Debian ships, and a cluster of them; then it tries what has to work (the walk) and what has to be closed (the
table of who reaches what), disturbs the hosts as people and other programs do, and tries both again. [hosts](../hosts/doc.go)
has it whole. A step that was tried again by itself names the version that it was tried with.

`)
	r.outcomes(&b)
	b.WriteString("\n## Who reaches what\n\nOf host a, as it should be. It is tried with each step.\n\n" + tableMarkdown())
	if r.Failed() {
		b.WriteString("\n## What does not hold\n")
		for _, s := range r.Suites {
			for _, step := range s.Steps {
				if len(step.Failures) == 0 {
					continue
				}
				fmt.Fprintf(&b, "\n%s, %s:\n\n", s.Suite, step.About)
				for _, failure := range step.Failures {
					fmt.Fprintf(&b, "- %s\n", cell(firstLine(failure)))
				}
			}
		}
	}
	return b.String()
}

// outcomes are the tables of suites and of steps.
func (r *Report) outcomes(b *strings.Builder) {
	if len(r.Suites) == 0 {
		b.WriteString("No suite has been tried yet.\n")
		return
	}
	b.WriteString("| suite | system | kernel | engine | its rules by | data plane | hosts | shoal | date | took |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, s := range r.Suites {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %d | %s | %s | %d min |\n",
			s.Suite, s.System, s.Kernel, s.Engine, s.Firewall, s.Plane, s.Hosts, s.Version, s.Date.UTC().Format("2006-01-02"),
			int(s.Took.Round(time.Minute).Minutes()))
	}
	b.WriteString("\n## Steps\n\n| step |")
	for _, s := range r.Suites {
		fmt.Fprintf(b, " %s |", s.Suite)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(r.Suites)) + "\n")
	for _, about := range r.steps() {
		fmt.Fprintf(b, "| %s |", cell(about))
		for _, s := range r.Suites {
			fmt.Fprintf(b, " %s |", s.outcome(about))
		}
		b.WriteByte('\n')
	}
}

// steps are what was done on any suite, in order.
func (r *Report) steps() (all []string) {
	seen := map[string]bool{}
	for _, s := range r.Suites {
		for _, step := range s.Steps {
			if !seen[step.About] {
				seen[step.About] = true
				all = append(all, step.About)
			}
		}
	}
	return all
}

func (s *SuiteReport) outcome(about string) string {
	for _, step := range s.Steps {
		if step.About != about {
			continue
		}
		took := fmt.Sprintf("%d s", int(step.Took.Round(time.Second).Seconds()))
		if step.Version != "" && step.Version != s.Version {
			took += fmt.Sprintf(" (%s, %s)", step.Version, step.Date.UTC().Format("2006-01-02"))
		}
		switch len(step.Failures) {
		case 0:
			return "holds, " + took
		case 1:
			return "**1 thing does not hold**, " + took
		default:
			return fmt.Sprintf("**%d things do not hold**, %s", len(step.Failures), took)
		}
	}
	return "not tried"
}

// Summary is the report for a terminal.
func (r *Report) Summary() string {
	var b strings.Builder
	for _, s := range r.Suites {
		fmt.Fprintf(&b, "%s (kernel %s, engine %s, data plane %s): %v\n", s.Suite, s.Kernel, s.Engine, s.Plane, s.Took.Round(time.Second))
		for _, step := range s.Steps {
			outcome := "holds"
			if len(step.Failures) > 0 {
				outcome = fmt.Sprintf("%d FAILED", len(step.Failures))
			}
			fmt.Fprintf(&b, "  %-14s %-10s %6.0f s\n", step.Name, outcome, step.Took.Seconds())
			for _, failure := range step.Failures {
				fmt.Fprintf(&b, "      %s\n", firstLine(failure))
			}
		}
	}
	return b.String()
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// cell is text that ends no cell of a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
