package connlimit

import (
	"net/http"
	"time"
)

// NoBody refuses requests that have a body, with 413 Content Too Large, and closes their
// connections. It is for servers none of whose requests has one: net/http reads what is
// missing of a body when it answers, so one that never comes would hold the handler.
func NoBody(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			h.ServeHTTP(w, r)
			return
		}
		_ = http.NewResponseController(w).SetReadDeadline(time.Now()) // read no more; where that fails, the server's deadline holds
		w.Header().Set("Connection", "close")
		http.Error(w, "requests here have no body", http.StatusRequestEntityTooLarge)
	})
}

// Requests answers requests for which there is no place with 503 Service Unavailable. The
// others keep their places until they are answered.
func Requests(h http.Handler, p *Places) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		release, ok := p.Acquire(Remote(r.RemoteAddr))
		if !ok {
			http.Error(w, "too many requests at a time: try again", http.StatusServiceUnavailable)
			return
		}
		defer release()
		h.ServeHTTP(w, r)
	})
}
