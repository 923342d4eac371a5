package traffic

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestPercentileIsTheNearestRank(t *testing.T) {
	ten := []time.Duration{10, 9, 8, 7, 6, 5, 4, 3, 2, 1}
	for _, c := range []struct {
		of   []time.Duration
		p    int
		want time.Duration
	}{
		{nil, 50, 0},
		{[]time.Duration{7}, 50, 7},
		{[]time.Duration{7}, 99, 7},
		{ten, 50, 5},
		{ten, 99, 10},
		{ten, 10, 1},
	} {
		if got := percentile(c.of, c.p); got != c.want {
			t.Errorf("percentile %d of %v: got %d, want %d", c.p, c.of, got, c.want)
		}
	}
}

func TestLoadCountsWhatSucceedsAndWhatFails(t *testing.T) {
	n := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n++; n%4 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, "hostname=box%d\nclient=%s\n", n%2, r.RemoteAddr)
	}))
	defer server.Close()
	for _, keep := range []bool{true, false} {
		n = 0
		s, err := Load{Target: server.URL, Count: 20, Keep: keep}.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Sent != 20 || s.OK != 15 || s.Failed != 5 || s.Errors["status 503 Service Unavailable"] != 5 {
			t.Errorf("keep %v: sent %d, ok %d, failed %d %v; want 20, 15, 5 with status 503", keep, s.Sent, s.OK, s.Failed, s.Errors)
		}
		if s.Hostnames["box0"] != 5 || s.Hostnames["box1"] != 10 || s.Clients["127.0.0.1"] != 15 {
			t.Errorf("keep %v: answered by %v to %v", keep, s.Hostnames, s.Clients)
		}
		if s.FirstFailure < s.Started || s.LastFailure < s.FirstFailure || s.Ended < s.LastFailure || s.P99 < s.P50 || s.P50 <= 0 {
			t.Errorf("keep %v: times do not follow each other: %+v", keep, s)
		}
	}
}

func TestLoadEndsWithItsContextAndCountsNothingCutShort(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s, err := Load{Target: server.URL, Workers: 3}.Run(ctx)
	if err != nil || s.Sent != 0 {
		t.Errorf("got %+v, %v; want nothing sent", s, err)
	}
}

func TestEveryRequestOfALoadIsTold(t *testing.T) {
	n := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n++; n == 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, "hostname=box%d\n", n)
	}))
	defer server.Close()
	var text strings.Builder
	out := json.NewEncoder(&text)
	s, err := Load{Target: server.URL, Count: 3, Each: func(r Request) { _ = out.Encode(r) }}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := ParseRequests("3 0\n" + text.String() + "{\"sent\":3}\n{\"begun\":7")
	if len(all) != 3 || all[0].Hostname != "box1" || all[0].Error != "" || all[1].Error != "status 503 Service Unavailable" {
		t.Fatalf("%+v", all)
	}
	if all[0].Begun < s.Started || all[0].Ended <= all[0].Begun || all[2].Ended > s.Ended {
		t.Errorf("times do not follow each other: %+v in %+v", all, s)
	}
}

func TestGetSpeaksLinesOverTCPAndUDP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 100)
			n, _ := c.Read(b)
			fmt.Fprintf(c, "hostname=box client=%s echo=%s", c.RemoteAddr(), b[:n])
			c.Close()
		}
	}()
	r, err := Get(t.Context(), "tcp://"+l.Addr().String(), Options{Payload: "ping"})
	if err != nil || r.Hostname != "box" || !r.Client.Addr().IsLoopback() || !strings.Contains(r.Body, "echo=ping") {
		t.Errorf("got %+v, %v", r, err)
	}
	closed := l.Addr().String()
	l.Close()
	_, err = Get(t.Context(), "tcp://"+closed, Options{})
	if err == nil || cause(err) != "connection refused" {
		t.Errorf("closed port: got %v, want connection refused", err)
	}
}

func TestASocketIsHeldWhereARequestFails(t *testing.T) {
	for hold, want := range map[bool]int{true: 1, false: 2} {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		clients := make(chan int)
		go func() {
			seen := map[string]bool{}
			defer func() { clients <- len(seen) }()
			b := make([]byte, 100)
			for {
				_, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				if len(seen) > 0 { // the first one is not answered
					fmt.Fprintf(answerTo{c, from}, "hostname=box client=%s\n", from)
				}
				seen[from.String()] = true
			}
		}()
		s, err := Load{Target: "udp://" + c.LocalAddr().String(), Count: 3, Keep: true, Hold: hold, Options: Options{Timeout: 100 * time.Millisecond}}.Run(t.Context())
		c.Close()
		if n := <-clients; err != nil || s.OK != 2 || s.Failed != 1 || n != want {
			t.Errorf("hold %t: %d sockets, %+v, %v; want %d", hold, n, s, err, want)
		}
	}
}

// answerTo writes datagrams to one who asked.
type answerTo struct {
	net.PacketConn
	to net.Addr
}

func (a answerTo) Write(b []byte) (int, error) { return a.WriteTo(b, a.to) }

func TestTargetsAreChecked(t *testing.T) {
	for _, target := range []string{"web:8000", "ftp://web", "tcp://web", "http://[::1", ""} {
		if _, err := Get(t.Context(), target, Options{}); err == nil {
			t.Errorf("%q was taken for a target", target)
		}
	}
}

func TestSummaryIsTheLastLine(t *testing.T) {
	s, err := ParseSummary("warning: x\n{\"sent\":3,\"ok\":2}\n")
	if err != nil || s.Sent != 3 || s.OK != 2 {
		t.Errorf("got %+v, %v", s, err)
	}
	if _, err := ParseSummary("killed"); err == nil {
		t.Error("no summary, and no error")
	}
}

func TestEachTargetHasASummary(t *testing.T) {
	all, err := ParseSummaries("{\"sent\":3}\n{\"sent\":4}\n")
	if err != nil || len(all) != 2 || all[0].Sent != 3 || all[1].Sent != 4 {
		t.Errorf("got %+v, %v", all, err)
	}
	for _, output := range []string{"", "{\"sent\":3}\nkilled"} {
		if all, err := ParseSummaries(output); err == nil {
			t.Errorf("%q is read as %+v", output, all)
		}
	}
}
