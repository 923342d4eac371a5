package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func reportCommand(status *int) *cobra.Command {
	return &cobra.Command{
		Use:   "report -- COMMAND [ARG...]",
		Short: "Run a command that runs Go tests, and say again at its end which failed, and what they said",
		Long: `Run a command that runs Go tests. What it prints is passed on, its standard output and its
standard error as one. If it fails, what failed is printed once more at the end, where it is
found. The command's exit status is lab's own. A signal that ends lab ends all that it started.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			cmd := exec.CommandContext(c.Context(), args[0], args[1:]...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) } // with all that it started
			*status, err = report(cmd, os.Stdout)
			return err
		},
	}
}

// report runs a command, passes on what it prints, and tells at the end what failed.
func report(cmd *exec.Cmd, to io.Writer) (status int, err error) {
	out, in, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, in
	err = cmd.Start()
	in.Close()
	if err != nil {
		return 0, err
	}
	var f failures
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			if _, err := io.WriteString(to, line); err != nil {
				return 0, err
			}
			f.read(strings.TrimSuffix(line, "\n"))
		}
		if err != nil {
			break
		}
	}
	err = cmd.Wait()
	if cmd.ProcessState == nil {
		return 0, err
	}
	if status = cmd.ProcessState.ExitCode(); status != 0 {
		fmt.Fprint(to, f.String())
	}
	if status < 0 { // a signal
		status = 125
	}
	return status, nil
}

// failures is what the output of Go tests tells of those that failed, with -v and without.
type failures struct {
	test   string              // that is running, with -v
	said   map[string][]saying // what tests have said, by the outermost test
	failed []string            // in order
	kept   []failure           // those before, of tests that have run again since
	other  []string            // what failed and is no test
	after  string              // the test that failed in the last line, of which more may follow; without -v it does
	open   bool                // lines that belong to the last saying may follow
}

// failure is what a test said that failed.
type failure struct {
	test string
	said []saying
}

// saying is what a test has said at once.
type saying struct {
	lines   []string
	verdict bool // it says what failed
}

var (
	testRuns  = regexp.MustCompile(`^=== (?:RUN|CONT|NAME) +(\S+)`)
	testEnds  = regexp.MustCompile(`^( *)--- (FAIL|PASS|SKIP): (\S+)`)
	testSays  = regexp.MustCompile(`^\s+\S+\.go:\d+: `)
	verdict   = regexp.MustCompile(`^\s+\S+\.go:\d+: (FAILED|not within )`) // of what logs much; the latter is lab.Eventually's
	lacks     = regexp.MustCompile(`^lab: this kernel has no `)
	otherFail = regexp.MustCompile(`^(panic: |fatal error: |FAIL\t|vet: |\S+\.go:\d+:\d+: |make\S*: \*\*\* |not gofmt'ed: |lab: |failed: \w)`)
)

// A test's first words and its last ones are told, and its verdicts: what it logs between may be long.
const (
	firstSaid, lastSaid   = 5, 10
	verdictsSaid          = 20
	saidWidth             = 400  // characters
	firstLines, lastLines = 4, 8 // of what it says at once: how it ends tells most, if it is a log
)

func outermost(test string) string {
	name, _, _ := strings.Cut(test, "/")
	return name
}

func (f *failures) read(line string) {
	line = strings.TrimSuffix(line, "\r")
	if m := testRuns.FindStringSubmatch(line); m != nil {
		f.test, f.after, f.open = outermost(m[1]), "", false
		if slices.Contains(f.failed, f.test) && strings.HasPrefix(line, "=== RUN") && m[1] == f.test { // it runs again, elsewhere
			f.kept = append(f.kept, failure{f.test, f.said[f.test]})
			f.failed = slices.DeleteFunc(f.failed, func(name string) bool { return name == f.test })
			delete(f.said, f.test)
		}
		return
	}
	if m := testEnds.FindStringSubmatch(line); m != nil {
		name := outermost(m[3])
		f.after, f.open = "", false
		switch {
		case m[2] == "FAIL":
			f.after = name
			if m[1] == "" {
				f.failed = append(f.failed, name)
			}
		case m[1] == "":
			delete(f.said, name)
		}
		return
	}
	of := f.after
	if of == "" {
		of = f.test
	}
	if of != "" && testSays.MatchString(line) {
		if f.said == nil {
			f.said = map[string][]saying{}
		}
		f.said[of] = append(f.said[of], saying{[]string{cut(line)}, verdict.MatchString(line)})
		f.open = true
		return
	}
	if of != "" && f.open && strings.HasPrefix(line, "        ") {
		last := &f.said[of][len(f.said[of])-1]
		last.lines = append(last.lines, cut(line))
		return
	}
	f.open = false
	if otherFail.MatchString(line) && !lacks.MatchString(line) {
		f.other = append(f.other, cut(line))
	}
}

func cut(line string) string {
	if len(line) <= saidWidth {
		return line
	}
	return strings.ToValidUTF8(line[:saidWidth], "") + " …"
}

// String tells what failed; "": nothing that is known of.
func (f *failures) String() string {
	var b strings.Builder
	all := f.kept
	for _, name := range f.failed {
		all = append(all, failure{name, f.said[name]})
	}
	for _, one := range all {
		fmt.Fprintf(&b, "failed: %s\n", one.test)
		said := one.said
		left, verdicts := 0, 0
		tell := func(line string) {
			if left > 0 {
				fmt.Fprintf(&b, "    … %d lines\n", left)
				left = 0
			}
			fmt.Fprintln(&b, line)
		}
		for i, s := range said {
			between := i >= firstSaid && i < len(said)-lastSaid
			if between && s.verdict {
				verdicts++
			}
			if between && (!s.verdict || verdicts > verdictsSaid) {
				left += len(s.lines)
				continue
			}
			for j, line := range s.lines {
				if j >= firstLines && j < len(s.lines)-lastLines {
					left++
					continue
				}
				tell(line)
			}
		}
	}
	for _, line := range f.other {
		fmt.Fprintln(&b, line)
	}
	if b.Len() == 0 {
		return ""
	}
	return "\nWhat failed:\n" + b.String()
}
