package kernel

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// lackingEnv names the file in which a job's programs note what they left out for want of a facility of the kernel.
const lackingEnv = "LAB_LACKING"

// NoteLacking notes that a test is left out, wholly or in part, because this kernel lacks a facility. The job says so
// when it ends.
func NoteLacking(facility, test string) error {
	f, err := os.OpenFile(os.Getenv(lackingEnv), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("note that the kernel lacks %s: %w", facility, err)
	}
	defer f.Close()
	_, err = fmt.Fprintln(f, facility, test)
	return err
}

// reportLacking says what was noted.
func reportLacking(to io.Writer) {
	b, err := os.ReadFile(os.Getenv(lackingEnv))
	if err != nil {
		return // nothing was
	}
	fmt.Fprint(to, lackingReport(string(b)))
}

func lackingReport(notes string) string {
	tests := map[string][]string{}
	for line := range strings.Lines(notes) {
		if facility, test, ok := strings.Cut(strings.TrimSpace(line), " "); ok && !slices.Contains(tests[facility], test) {
			tests[facility] = append(tests[facility], test)
		}
	}
	var b strings.Builder
	for _, facility := range slices.Sorted(maps.Keys(tests)) {
		fmt.Fprintf(&b, "lab: this kernel has no %s, which was left out of: %s\n", facility, strings.Join(tests[facility], ", "))
	}
	return b.String()
}
