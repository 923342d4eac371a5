//go:build e2e

package e2e

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// TestMetricsAreAsDocumented: what an agent serves has the names, types and meanings that docs/metrics.md lists, and keeps
// Prometheus' conventions.
func TestMetricsAreAsDocumented(t *testing.T) {
	h := home(t)
	h.run("listed", "-l shoal.service=listed -l shoal.publish=8094:8000")
	h.answered(h.web("listed"), "listed")
	resp, err := h.dial("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, err)
	}
	doc, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, m := range regexp.MustCompile(`(?m)^# HELP (shoal_\w+) (.*)\n# TYPE \w+ (\w+)$`).FindAllStringSubmatch(string(text), -1) {
		seen++
		row := regexp.MustCompile("(?m)^\\| `" + m[1] + "` \\| " + m[3] + " \\| .* \\| " + regexp.QuoteMeta(m[2]) + " \\|$")
		if !row.Match(doc) {
			t.Errorf("docs/metrics.md does not say that %s is a %s, and: %s", m[1], m[3], m[2])
		}
	}
	if seen < 35 {
		t.Errorf("only %d metrics:\n%s", seen, text)
	}
	complaints, err := promlint.New(strings.NewReader(string(text))).Lint()
	if err != nil || len(complaints) > 0 {
		t.Errorf("against Prometheus' conventions: %v %v", complaints, err)
	}
	if v := h.metrics()["shoal_ready"]; v != 1 {
		t.Errorf("shoal_ready is %v", v)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		resp, err := h.dial(path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || string(body) != "ok\n" {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
}
