//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// What the agent says by its socket, and by -o json, as far as tests look at it.
type (
	status struct {
		Version  string
		Node     string
		Engine   string // "connected", or why not
		Problems int
		Store    struct {
			Snapshot  uint64 // 0: there is none yet
			Waiting   string
			Connected bool
			Embedded  bool
		}
	}
	service struct {
		ID                string
		VIP               string
		Tasks, InRotation int
	}
	task struct {
		Service, Name, State, Reason string // Service as stack/name
	}
	problem struct {
		Code, Kind, Object, Reason, Node string
	}
	explanation struct {
		OK      bool
		Verdict string
		Steps   []struct {
			What     string
			Node     string
			OK       bool
			Evidence string
		}
	}
)

// ask asks the host's agent: a look that a test takes many of, so without a process for each.
func ask[T any](h *host, what string) (v T, err error) {
	resp, err := h.dial("/v1/" + what)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		return v, fmt.Errorf("%s: %s", resp.Status, b)
	}
	return v, json.NewDecoder(resp.Body).Decode(&v)
}

func (h *host) dial(path string) (*http.Response, error) {
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.AgentSocket())
		},
	}}
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, "http://shoal"+path, nil)
	if err != nil {
		return nil, err
	}
	return c.Do(req)
}

// metrics are the values of the agent's metrics, by name and labels as Prometheus writes them.
func (h *host) metrics() map[string]float64 {
	h.t.Helper()
	resp, err := h.dial("/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	values := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		sample := lines.Text()
		if sample == "" || sample[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(sample, ' ')
		v, err := strconv.ParseFloat(sample[i+1:], 64)
		if err != nil {
			h.t.Fatalf("metrics: %q: %v", sample, err)
		}
		values[sample[:i]] = v
	}
	if err := lines.Err(); err != nil {
		h.t.Fatal(err)
	}
	return values
}

// sum adds up the values of a metric, whatever their labels.
func sum(values map[string]float64, name string) (total float64, found bool) {
	for key, v := range values {
		if key == name || strings.HasPrefix(key, name+"{") {
			total, found = total+v, true
		}
	}
	return total, found
}
