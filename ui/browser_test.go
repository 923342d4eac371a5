//go:build ui

package ui

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"shoal/lab/wait"
	"shoal/model"
)

// tab is a page in a headless Chromium, and what it complained of.
type tab struct {
	*testing.T
	ctx context.Context

	mu       sync.Mutex
	said     []string // errors and warnings of its console
	requests []string
}

// limit is the time for one step; a loaded machine is slow.
const limit = time.Minute

// open opens a page in a browser of its own.
func open(t *testing.T, url string, width, height int64, features ...*emulation.MediaFeature) *tab {
	t.Helper()
	flags := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox) // of root; it visits this page alone
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), flags...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	p := &tab{T: t, ctx: ctx}
	messages := chromedp.Console(ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			if m.Type == chromedp.ConsoleException || m.Type == "error" || m.Type == "warning" {
				p.note(&p.said, string(m.Type)+": "+m.Text)
			}
		}
	}()
	err := chromedp.Listen(ctx, func(e any) {
		if r, ok := e.(*network.EventRequestWillBeSent); ok {
			p.note(&p.requests, r.Request.URL)
		}
	})
	if err == nil {
		_, err = chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features})
	}
	if err != nil {
		t.Fatalf("start the browser: %v", err)
	}
	p.do("open "+url, chromedp.EmulateViewport(width, height), chromedp.Navigate(url))
	return p
}

func (p *tab) note(to *[]string, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*to = append(*to, what)
}

func (p *tab) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.Fatalf("%s: %v; the page complains of %q", what, err, p.complaints())
	}
}

func (p *tab) key(keys string) {
	p.Helper()
	p.do("press "+keys, chromedp.KeyEvent(keys))
}

func (p *tab) goTo(view string) {
	p.Helper()
	eval[string](p, fmt.Sprintf(`location.hash = "#/%s"`, view))
}

func (p *tab) complaints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.said...)
}

// eval evaluates an expression.
func eval[V any](p *tab, js string) V {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[V](js))
	if err != nil {
		p.Fatalf("%s: %v; the page complains of %q", js, err, p.complaints())
	}
	return v
}

// until waits until an expression is true.
func (p *tab) until(what, js string) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	err := wait.Until(ctx, func() error {
		if ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+js+")")); err != nil || ok {
			return err
		}
		return fmt.Errorf("%s is false", js)
	})
	if err != nil {
		p.Fatalf("not within %v: %s: %v; the page says %q and complains of %q", limit, what, err, eval[string](p, "document.body.innerText"), p.complaints())
	}
}

// said tells whether the page shows a text.
func said(text string) string { return fmt.Sprintf("document.body.innerText.includes(%q)", text) }

// noComplaints checks that nothing was wrong with the page, and that it asked its own host only.
func (p *tab) noComplaints(url string) {
	p.Helper()
	if all := p.complaints(); len(all) > 0 {
		p.Errorf("the page complains of %q", all)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.requests) == 0 {
		p.Error("no request was seen")
	}
	for _, r := range p.requests {
		if !strings.HasPrefix(r, url+"/") {
			p.Errorf("the page asked for %s", r)
		}
	}
}

// shoot writes a screenshot to the docs, where that is asked for.
func (p *tab) shoot(name string) {
	p.Helper()
	dir := os.Getenv("SHOAL_UI_SHOTS")
	if dir == "" {
		return
	}
	b, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		p.Fatal(err)
	}
	if len(b) > 200<<10 {
		p.Errorf("%s has %d octets: it shall have less than 200 KB", name, len(b))
	}
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
		p.Fatal(err)
	}
}

// TestThePageIsLive in a browser: it shows what there is, then each change, by itself.
func TestThePageIsLive(t *testing.T) {
	w := newWorld()
	srv := w.serve(t, Options{Token: testToken})
	p := open(t, srv.URL+"/#token="+testToken, 1360, 860)
	p.until("services", said("shop/web"))
	p.until("problems", said("shop-import-1"))
	p.until("rates, in the drawing", `[...document.querySelectorAll(".edge-label")].some(l => /\d\/s$/.test(l.textContent))`)
	if got := eval[string](p, "location.href"); strings.Contains(got, testToken) {
		t.Errorf("the token stays in the address: %s", got)
	}
	if got := eval[string](p, `document.getElementById("state").innerText`); !strings.Contains(got, "1 host dead") || !strings.Contains(got, "1 service down") {
		t.Errorf("the state is %q", got)
	}
	if eval[bool](p, said("node · c · host-dead · since")) { // it is not known since when
		t.Error("a problem is said to be there since the year 1")
	}
	p.until("a line of rates", `document.querySelector(".spark polyline")?.points.length > 3`)
	p.shoot("ui-overview.png")

	w.change(func(s *model.Snapshot) {
		task(s, model.ServiceID{Stack: "new", Name: "comer"}, 0, model.Running, model.Spec{Mode: model.ModeVIP})
		mail, _ := s.Service(shop("mail"))
		mail.Tasks[0].State = model.Running
		s.Nodes = append([]model.Node(nil), s.Nodes...)
		s.Nodes[2].Alive = true
	})
	p.until("a service that came", said("new/comer"))
	p.until("a state that changed", `!document.getElementById("state").innerText.includes("down")`)
	w.change(func(s *model.Snapshot) { s.Services = s.Services[1:] })
	p.until("a service that went", "!"+said("new/comer"))
	p.noComplaints(srv.URL)
}

// TestHostileNamesStayText: of whatever is called by others, nothing is HTML.
func TestHostileNamesStayText(t *testing.T) {
	w := newWorld()
	const name = `<img src=x onerror="document.title='owned'">` + "\u202e\x1b[31m"
	w.problems[0].Object, w.problems[0].Reason = name, name
	w.change(func(s *model.Snapshot) { web, _ := s.Service(shop("web")); web.Tasks[0].Name = name })
	w.explained.Steps[0].Evidence = name
	srv := w.serve(t, Options{Token: testToken})
	p := open(t, srv.URL+"/#token="+testToken, 1360, 860)
	p.until("the problem's object", said(`<img src=x`))
	p.goTo("service/shop/web")
	p.until("the task's name and the evidence", `document.querySelector(".service .path").innerText.includes("<img") && document.querySelector(".service table").innerText.includes("<img")`)
	if n := eval[int](p, `document.querySelectorAll("main img, main script").length`); n > 0 {
		t.Errorf("%d elements came from names", n)
	}
	if eval[bool](p, `/[\u202e\u001b]/.test(document.body.innerText)`) {
		t.Error("characters that turn the direction of writing reach the page")
	}
	p.noComplaints(srv.URL)
}

// TestTheKeyboardIsEnough: all is reached, and what has the focus keeps it.
func TestTheKeyboardIsEnough(t *testing.T) {
	w := newWorld()
	srv := w.serve(t, Options{Token: testToken})
	p := open(t, srv.URL+"/#token="+testToken, 1360, 860)
	p.until("services", said("shop/web"))
	focused := func() string { return eval[string](p, `document.activeElement.innerText || document.activeElement.id`) }
	tabTo := func(text string) {
		t.Helper()
		for range 60 {
			p.key(kb.Tab)
			if strings.HasPrefix(focused(), text) {
				return
			}
		}
		t.Fatalf("Tab does not reach %q", text)
	}
	tabTo("Skip to the content")
	tabTo("Services")
	p.key(kb.Enter)
	p.until("the services", `document.querySelector("main caption")?.innerText === "Services"`)
	tabTo("Tasks")
	p.key(kb.Enter)
	p.until("they are sorted by tasks", `[...document.querySelectorAll("main th[aria-sort=descending]")].some(th => th.innerText.startsWith("Tasks"))`)
	tabTo("shop/web")
	w.change(func(s *model.Snapshot) {
		task(s, model.ServiceID{Stack: "new", Name: "comer"}, 0, model.Running, model.Spec{Mode: model.ModeVIP})
	})
	p.until("a service that came", said("new/comer"))
	if got := focused(); got != "shop/web" {
		t.Errorf("a change takes the focus away, to %q", got)
	}
	p.key(kb.Enter)
	p.until("the path", said("Every step holds"))
	p.until("the heading", `document.querySelector("main h1").innerText.startsWith("shop/web")`)
	p.shoot("ui-service.png")
	p.key("/")
	if got := focused(); got != "filter" {
		t.Errorf("/ leads to %q", got)
	}
	eval[string](p, `document.getElementById("filter").value = ""`) // chromedp sends the / as text, too
	p.key("web-2")
	p.until("one task is left", `document.querySelectorAll(".service tbody")[0].rows.length === 1`)
	p.key(kb.Escape)
	p.until("all tasks are back", `document.querySelectorAll(".service tbody")[0].rows.length === 4`)
	p.noComplaints(srv.URL)
}

// TestThePageFitsAPhone: no view is wider than the screen. It is dark where the
// reader wants that.
func TestThePageFitsAPhone(t *testing.T) {
	w := newWorld()
	srv := w.serve(t, Options{Token: testToken})
	p := open(t, srv.URL+"/#token="+testToken, 360, 740, &emulation.MediaFeature{Name: "prefers-color-scheme", Value: "dark"})
	p.until("services", said("shop/web"))
	p.until("rates", `[...document.querySelectorAll(".edge-label")].some(l => /\d\/s$/.test(l.textContent))`)
	p.shoot("ui-phone.png")
	for _, view := range []string{"", "services", "tasks", "hosts", "ports", "traffic", "problems", "service/shop/web"} {
		p.goTo(view)
		p.until("the view "+view, `document.querySelector("main").innerText.length > 20 && !document.querySelector("main").innerText.includes("Looking")`)
		if wide := eval[string](p, `[...document.querySelectorAll("body *")].filter(e => !e.closest("svg svg, .skip, .hidden, .word") && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + "." + e.className).join(" ")`); wide != "" {
			t.Errorf("view %q: %s reach out of the screen", view, wide)
		}
		if w := eval[int](p, `document.documentElement.scrollWidth`); w > 360 {
			t.Errorf("view %q is %d pixels wide", view, w)
		}
		if view == "traffic" {
			p.shoot("ui-phone-traffic.png")
		}
	}
	if c := eval[string](p, `getComputedStyle(document.body).backgroundColor`); c != "rgb(20, 24, 27)" {
		t.Errorf("the background is %s", c)
	}
	p.noComplaints(srv.URL)
}

// TestWithoutTheTokenThereIsNoData, and the page says what to do.
func TestWithoutTheTokenThereIsNoData(t *testing.T) {
	srv := newWorld().serve(t, Options{Token: testToken})
	p := open(t, srv.URL+"/", 800, 600)
	p.until("the page says what to do", said("sudo shoal ui"))
	if eval[bool](p, said("shop/web")) {
		t.Error("data is shown without the token")
	}
	p.do("put the token in", chromedp.SendKeys("#token", testToken+kb.Enter))
	p.until("services", said("shop/web"))
}

// TestThePageSaysThatTheAgentIsGone, and goes on when it is back.
func TestThePageSaysThatTheAgentIsGone(t *testing.T) {
	w := newWorld()
	srv := w.serve(t, Options{Token: testToken})
	p := open(t, srv.URL+"/#token="+testToken, 800, 600)
	p.until("services", said("shop/web"))
	srv.CloseClientConnections()
	p.until("it says so", `document.querySelector("#live.away") !== null || document.querySelector("#live.live") !== null`)
	w.change(func(s *model.Snapshot) {
		task(s, model.ServiceID{Stack: "new", Name: "comer"}, 0, model.Running, model.Spec{Mode: model.ModeVIP})
	})
	p.until("a service that came meanwhile", said("new/comer"))
	p.until("it is live again", `document.querySelector("#live.live") !== null`)
}
