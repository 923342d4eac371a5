package api

import (
	"fmt"
	"net/http"
)

// HandleHealth adds the questions of supervisors and load balancers to mux:
// GET /healthz, whether the agent works, and GET /readyz, whether it has set this
// host up. The answer is 200 and "ok", or 503 and the error.
func HandleHealth(mux *http.ServeMux, alive, ready func() error) {
	for path, check := range map[string]func() error{"/healthz": alive, "/readyz": ready} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			w.Header().Set("Cache-Control", "no-store")
			if err := check(); err != nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				fmt.Fprintln(w, err)
				return
			}
			fmt.Fprintln(w, "ok")
		})
	}
}
