package ui

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"shoal/api"
)

// ask asks the handler of a world.
func ask(method, path string, o Options, change func(*http.Request)) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "127.0.0.1:7480"
	r.Header.Set("Authorization", "Bearer "+testToken)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	Handler(newWorld().source(), o).ServeHTTP(w, r)
	return w.Result()
}

const explain = "/v1/explain?what=shop/web"

// TestDataNeedsTheToken, and the page's own files do not.
func TestDataNeedsTheToken(t *testing.T) {
	o := Options{Token: testToken}
	for _, c := range []struct {
		what, path string
		header     string
		want       int
	}{
		{"the token", explain, "Bearer " + testToken, 200},
		{"none", explain, "", 401},
		{"another", explain, "Bearer " + testToken[1:], 401},
		{"an empty one", explain, "Bearer ", 401},
		{"none, of the stream", "/v1/stream", "", 401},
		{"the token as a parameter", explain + "&token=" + testToken, "", 401},
		{"none, of the page", "/", "", 200},
		{"none, of a script", "/main.js", "", 200},
		{"what is not there", "/v1/services", "Bearer " + testToken, 404},
		{"a file's source", "/static/main.js", "", 404},
	} {
		got := ask("GET", c.path, o, func(r *http.Request) { r.Header.Set("Authorization", c.header) })
		if got.StatusCode != c.want {
			t.Errorf("%s: %s, want %d", c.what, got.Status, c.want)
		}
	}
}

// TestWithoutATokenACertificateIsNeeded that the server has verified.
func TestWithoutATokenACertificateIsNeeded(t *testing.T) {
	for _, c := range []struct {
		what string
		tls  *tls.ConnectionState
		want int
	}{
		{"plain text", nil, 403},
		{"no certificate", &tls.ConnectionState{}, 403},
		{"a certificate", &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}, 200},
	} {
		if got := ask("GET", explain, Options{}, func(r *http.Request) { r.TLS = c.tls }); got.StatusCode != c.want {
			t.Errorf("%s: %s, want %d", c.what, got.Status, c.want)
		}
	}
}

// TestForeignNamesAreRefused: a page of another site may lead its name to this host.
func TestForeignNamesAreRefused(t *testing.T) {
	o := Options{Token: testToken, Named: func(name string) bool { return name == "a.node.shoal" }}
	for host, want := range map[string]int{
		"127.0.0.1:7480": 200, "192.0.2.1": 200, "[::1]:7480": 200, "localhost:9000": 200, "LOCALHOST": 200, "a.node.shoal:7480": 200,
		"evil.example:7480": 421, "127.0.0.1.evil.example": 421, "localhost.evil.example:7480": 421, "": 421,
	} {
		for _, path := range []string{"/", explain} {
			if got := ask("GET", path, o, func(r *http.Request) { r.Host = host }); got.StatusCode != want {
				t.Errorf("Host %q, %s: %s, want %d", host, path, got.Status, want)
			}
		}
	}
	if got := ask("GET", "/", Options{}, func(r *http.Request) { r.Host = "a.node.shoal" }); got.StatusCode != 421 {
		t.Errorf("a name where no name is this host's: %s", got.Status)
	}
}

// TestNothingCanBeWritten by any method.
func TestNothingCanBeWritten(t *testing.T) {
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
		for _, path := range []string{"/", explain, "/v1/stream", "/main.js"} {
			if got := ask(method, path, Options{Token: testToken}, nil); got.StatusCode != 405 {
				t.Errorf("%s %s: %s, want 405", method, path, got.Status)
			}
		}
	}
}

// TestBrowsersAreToldWhatThePageMayDo with each answer, refusals among them.
func TestBrowsersAreToldWhatThePageMayDo(t *testing.T) {
	for _, path := range []string{"/", "/main.js", explain, "/nothing"} {
		got := ask("GET", path, Options{Token: testToken}, nil).Header
		policy := got.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: the policy %q lacks %s", path, policy, part)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") || strings.Contains(policy, "*") {
			t.Errorf("%s: the policy %q lets in more than the page's own files", path, policy)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin"} {
			if got.Get(name) != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got.Get(name), want)
			}
		}
	}
	if c := ask("GET", explain, Options{Token: testToken}, nil).Header.Get("Cache-Control"); c != "no-store" {
		t.Errorf("data may be kept: %q", c)
	}
}

// TestThePageAsksNobodyElse: no file of it names another place, or makes HTML of text.
func TestThePageAsksNobodyElse(t *testing.T) {
	forbidden := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|<style|\sstyle=|\son[a-z]+="|javascript:|url\(|@import|//[a-z0-9-]+\.[a-z]+/`)
	err := fs.WalkDir(files, "static", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, path)
		text := strings.ReplaceAll(string(b), "http://www.w3.org/2000/svg", "") // a name, not a place
		if found := forbidden.FindString(text); found != "" {
			t.Errorf("%s has %q", path, found)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFilesAreAskedForAgain, and sent only where they changed.
func TestFilesAreAskedForAgain(t *testing.T) {
	first := ask("GET", "/main.js", Options{}, nil)
	if kind := first.Header.Get("Content-Type"); kind != "text/javascript; charset=utf-8" {
		t.Errorf("a script is %q", kind)
	}
	tag := first.Header.Get("ETag")
	again := ask("GET", "/main.js", Options{}, func(r *http.Request) { r.Header.Set("If-None-Match", tag) })
	if b, _ := io.ReadAll(again.Body); tag == "" || again.StatusCode != 304 || len(b) > 0 {
		t.Errorf("the same file again: %s with %d octets", again.Status, len(b))
	}
}

// TestExplain passes on what the agent explains, and its errors.
func TestExplain(t *testing.T) {
	var e api.Explanation
	if got := ask("GET", explain, Options{Token: testToken}, nil); json.NewDecoder(got.Body).Decode(&e) != nil || e.What != "shop/web" || len(e.Steps) != 8 {
		t.Errorf("%+v", e)
	}
	var f api.Failure
	if got := ask("GET", "/v1/explain?what=shop/nothing", Options{Token: testToken}, nil); json.NewDecoder(got.Body).Decode(&f) != nil || got.StatusCode != 404 || !strings.Contains(f.Error, "shop/nothing") {
		t.Errorf("%s: %+v", got.Status, f)
	}
	if got := ask("GET", "/v1/explain?what="+strings.Repeat("x", 301), Options{Token: testToken}, nil); got.StatusCode != 400 {
		t.Errorf("a name of 301 characters: %s", got.Status)
	}
}

// TestTheTokenIsRoots, and stays.
func TestTheTokenIsRoots(t *testing.T) {
	dir := t.TempDir()
	first, err := Token(dir)
	if err != nil || len(first) < 32 {
		t.Fatalf("%q, %v", first, err)
	}
	path := filepath.Join(dir, tokenFile)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := Token(dir)
	if err != nil || again != first {
		t.Errorf("again: %q, %v, want %q", again, err, first)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: want 0600", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if token, err := Token(dir); err == nil {
		t.Errorf("%q is taken for a token", token)
	}
}
