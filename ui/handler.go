package ui

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"

	"shoal/api"
)

//go:embed static
var files embed.FS

// Options say who may look.
type Options struct {
	// Token is the secret that whoever asks for data has to show. "": there is
	// none, and clients show a certificate, which the TLS configuration has to ask for.
	Token string

	// Named tells whether a name is this host's; nil: no name is. Addresses, and
	// localhost, always are.
	Named func(name string) bool

	Log *slog.Logger
}

// contentPolicy allows the page its own files, and nothing else. Scripts cannot
// make HTML of text.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Bounds of explanations, which connect to tasks to see whether they answer.
const (
	explainTime = 20 * time.Second
	explainMost = 2   // at a time
	whatMost    = 300 // characters of what is asked for
)

// Handler serves the page, and its data. It answers GET and HEAD alone. The files of
// the page are for everybody: there is no secret in them.
func Handler(s Source, o Options) http.Handler {
	mux := http.NewServeMux()
	live := newStream(s, o.Log)
	mux.Handle("GET /v1/stream", o.authorized(live.serve))
	explaining := make(chan struct{}, explainMost)
	mux.Handle("GET /v1/explain", o.authorized(func(w http.ResponseWriter, r *http.Request) {
		what := r.URL.Query().Get("what")
		if len(what) > whatMost {
			http.Error(w, "that is too long for a name", http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), explainTime)
		defer cancel()
		select {
		case explaining <- struct{}{}:
			defer func() { <-explaining }()
		case <-ctx.Done():
			http.Error(w, "too many explanations are asked for: try again", http.StatusServiceUnavailable)
			return
		}
		e, err := s.Explain(ctx, what)
		api.Reply(w, e, err)
	}))
	addFiles(mux)
	return o.guarded(mux)
}

// addFiles adds the page's files. Browsers ask each time whether they changed.
func addFiles(mux *http.ServeMux) {
	all, err := fs.ReadDir(files, "static")
	if err != nil {
		panic(err) // they are in the binary
	}
	for _, f := range all {
		content, err := fs.ReadFile(files, "static/"+f.Name())
		if err != nil {
			panic(err)
		}
		kind := mime.TypeByExtension(path.Ext(f.Name()))
		switch path.Ext(f.Name()) { // the host's own list of types does not matter
		case ".js":
			kind = "text/javascript; charset=utf-8"
		case ".svg":
			kind = "image/svg+xml"
		}
		tag := fmt.Sprintf("%q", fmt.Sprintf("%x", sha256.Sum256(content))[:16])
		serve := func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Cache-Control", "no-cache")
			w.Header().Set("ETag", tag)
			if r.Header.Get("If-None-Match") == tag {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			_, _ = w.Write(content) // the client has gone: nobody to tell
		}
		if f.Name() == "index.html" {
			mux.HandleFunc("GET /{$}", serve)
			continue
		}
		mux.HandleFunc("GET /"+f.Name(), serve)
	}
}

// guarded refuses what names another host, and tells browsers what the page may do.
func (o *Options) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Content-Security-Policy":      contentPolicy,
			"X-Content-Type-Options":       "nosniff",
			"X-Frame-Options":              "DENY",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Cache-Control":                "no-store",
			"Permissions-Policy":           "camera=(), geolocation=(), microphone=()",
		} {
			w.Header().Set(name, value)
		}
		if !o.ours(r.Host) {
			http.Error(w, "this host does not go by that name: use its address", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ours tells whether the Host header of a request names this host. A name that
// somebody else has led here does not; an address cannot be led anywhere.
func (o *Options) ours(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), "."))
	if _, err := netip.ParseAddr(name); err == nil || name == "localhost" {
		return true
	}
	return name != "" && o.Named != nil && o.Named(name)
}

// authorized lets pass whoever shows the token, or a certificate that was verified.
func (o *Options) authorized(next http.HandlerFunc) http.Handler {
	want := sha256.Sum256([]byte(o.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o.Token == "" {
			if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
				http.Error(w, "a client's certificate is needed", http.StatusForbidden)
				return
			}
			next(w, r)
			return
		}
		shown, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if have := sha256.Sum256([]byte(shown)); subtle.ConstantTimeCompare(have[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="shoal"`)
			http.Error(w, "a token is needed: sudo shoal ui prints the address that has it", http.StatusUnauthorized)
			return
		}
		next(w, r)
	})
}
