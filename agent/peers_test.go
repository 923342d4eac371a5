package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestWhatAnAgentMayHaveBegunIsToldApart(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		if r.URL.Path == "/reset" {
			err = c.(*net.TCPConn).SetLinger(0)
		}
		if err = errors.Join(err, c.Close()); err != nil {
			t.Error(err)
		}
	}))
	defer s.Close()
	for path, url := range map[string]string{"it ended": s.URL + "/end", "it was reset": s.URL + "/reset", "nobody listens": "http://127.0.0.1:1/"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = http.DefaultClient.Do(req)
		cancel()
		if want := path != "nobody listens"; err == nil || isCutOff(err) != want {
			t.Errorf("%s: cut off %t, want %t; %v", path, isCutOff(err), want, err)
		}
	}
	if !isCutOff(context.DeadlineExceeded) || isCutOff(nil) || isCutOff(errors.New("refused")) {
		t.Error("a deadline is none, or what is none is one")
	}
}
