package dockerwatch

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"

	"shoal/model"
)

func TestLabelsOfAnImageAreNotObeyed(t *testing.T) {
	const project, hash = "com.docker.compose.project=shop", "com.docker.compose.config-hash=1f"
	for _, test := range []struct {
		name          string
		labels, image string
		own           string
		ignored       string
	}{
		{name: "no labels at all"},
		{name: "its own", labels: "service=web", own: "service=web"},
		{name: "its own, of an image with others", labels: "service=web com.example.a=b", image: "com.example.a=b", own: "service=web com.example.a=b"},
		{name: "its image's", labels: "service=web", image: "service=web", ignored: "shoal.service"},
		{name: "several of its image", labels: "service=web stack=shop publish=22", image: "service=web stack=shop publish=22", ignored: "shoal.publish shoal.service shoal.stack"},
		{name: "one of its own besides", labels: "service=web publish=22 weight=1", image: "publish=22 service=web", own: "weight=1", ignored: "shoal.publish shoal.service"},
		{name: "the service of its own, a port of its image", labels: "service=web publish=22", image: "publish=22", own: "service=web", ignored: "shoal.publish"},
		{name: "its image's, with another value", labels: "service=shop", image: "service=web", own: "service=shop"},
		{name: "its image's, without a value", labels: "service=", image: "service=", ignored: "shoal.service"},
		{name: "without a value, which the image does not have", labels: "service=", own: "service="},
		{name: "a mistake of the image", labels: "wieght=1", image: "wieght=1", ignored: "shoal.wieght"},
		{name: "the image's Compose project", labels: project, image: project},
		{name: "the image's Compose project, and a service of its own", labels: "service=web " + project, image: project, own: "service=web"},
		{name: "Compose's container of a plain image", labels: project + " " + hash, own: project + " " + hash},
		{name: "Compose's container of an image that Compose built", labels: project + " " + hash, image: project, own: project + " " + hash},
		{name: "an image that claims to be Compose's container", labels: project + " " + hash, image: project + " " + hash, own: hash},
	} {
		t.Run(test.name, func(t *testing.T) {
			own, ignored := effectiveLabels(labelsOf(test.labels), labelsOf(test.image))
			if want := labelsOf(test.own); len(own) != len(want) || !maps.Equal(own, want) {
				t.Errorf("obeyed are %v, want %v", own, want)
			}
			if got := strings.Join(ignored, " "); got != test.ignored {
				t.Errorf("ignored are %q, want %q", got, test.ignored)
			}
			if notice := imageNotice(ignored); (len(notice) == 1) != (test.ignored != "") {
				t.Errorf("notice %v", notice)
			}
		})
	}
}

// TestAnImagePublishesNothing: neither by itself nor beside a label of an operator.
func TestAnImagePublishesNothing(t *testing.T) {
	c := inspected("one", "service=web publish=22 stack=other com.docker.compose.project=victim", "bridge=172.17.0.2")
	f := factsOf(c, labelsOf("publish=22 stack=other com.docker.compose.project=victim"), testLimits, t0)
	if f.refusal != nil || f.stack != model.DefaultStack || f.project != "" || len(f.services) != 1 {
		t.Fatalf("%+v", f)
	}
	if s := f.services[0]; s.id.String() != "default/web" || len(s.spec.Publish) > 0 {
		t.Errorf("%+v", s)
	}
}

func TestAnImagesManyLabelsAreNotAllNamed(t *testing.T) {
	var ignored []string
	for i := range 100 {
		ignored = append(ignored, strings.Repeat("x", 1000)+string(rune('a'+i%26)))
	}
	notice := imageNotice(ignored)[0].Text
	if len(notice) > 1000 || !strings.Contains(notice, "95 more") {
		t.Errorf("%d characters: %s", len(notice), notice)
	}
}

func TestNoImageJoinsByItself(t *testing.T) {
	e := newFakeEngine()
	e.images = map[string]string{"web": "service=web", "plain": "", "broken": "broken", "composed": "com.docker.compose.project=shop"}
	e.runImage("a", "web", "service=web")
	e.runImage("b", "web", "service=web services.web.weight=1")
	e.runImage("c", "plain", "service=web")
	e.runImage("d", "gone", "service=web")
	e.runImage("e", "unasked", "")
	e.runImage("f", "broken", "service=web")
	e.runImage("x", "composed", "com.docker.compose.project=shop")
	h := watch(t, e, func(o *Options) { o.Resync = 20 * time.Millisecond })
	h.wants("a b:running c:running d:running e x")
	if n := h.container("a").Notices; len(n) != 1 || n[0].Code != model.LabelsOfImage || !strings.Contains(n[0].Text, "shoal.service") {
		t.Errorf("the notices are %v", n)
	}
	if stack := h.container("x").Stack; stack != model.DefaultStack {
		t.Errorf("its image has put it in the stack %s", stack)
	}
	h.until("what was wrong with an image is told", func() bool {
		return strings.Contains(h.log.String(), "inspect its image broken")
	})
	e.mu.Lock()
	e.images["broken"] = "service=other"
	e.mu.Unlock()
	h.wants("a b:running c:running d:running e f:running x")

	// Its image has been asked about, as long as there is a container of it.
	asked := func(image string) int {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.inspected[image]
	}
	web := asked("web")
	if asked("unasked") > 0 {
		t.Error("an image was asked about for no label")
	}
	e.runImage("g", "web", "service=web")
	e.happen(events.ActionStart, "g")
	h.wants("a b:running c:running d:running e f:running g x")
	if n := asked("web"); n != web {
		t.Errorf("an image was asked about %d times more", n-web)
	}
	for _, id := range []string{"a", "b", "g"} {
		e.die(id)
	}
	h.wants("c:running d:running e f:running x")
	h.until("the image is forgotten", func() bool { _, known := h.w.images.Load("web"); return !known })
}
