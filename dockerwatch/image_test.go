package dockerwatch

import (
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"
)

func TestNoImageJoinsByItself(t *testing.T) {
	e := newFakeEngine()
	e.images = map[string]string{"web": "service=web", "plain": "", "broken": "broken"}
	e.runImage("a", "web", "service=web")
	e.runImage("b", "web", "service=web weight=1")
	e.runImage("c", "plain", "service=web")
	e.runImage("d", "gone", "service=web")
	e.runImage("e", "unasked", "")
	e.runImage("f", "broken", "service=web")
	h := watch(t, e, func(o *Options) { o.Resync = 20 * time.Millisecond })
	h.wants("a:problem b:running c:running d:running e")
	h.until("what was wrong with an image is told", func() bool {
		return strings.Contains(h.log.String(), "inspect its image broken")
	})
	e.mu.Lock()
	e.images["broken"] = "service=other"
	e.mu.Unlock()
	h.wants("a:problem b:running c:running d:running e f:running")

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
	h.wants("a:problem b:running c:running d:running e f:running g:problem")
	if n := asked("web"); n != web {
		t.Errorf("an image was asked about %d times more", n-web)
	}
	for _, id := range []string{"a", "b", "g"} {
		e.die(id)
	}
	h.wants("c:running d:running e f:running")
	h.until("the image is forgotten", func() bool { _, known := h.w.images.Load("web"); return !known })
}

func TestImagesJoinWhereTheyMay(t *testing.T) {
	e := newFakeEngine()
	e.images = map[string]string{"web": "service=web"}
	e.runImage("a", "web", "service=web")
	h := watch(t, e, func(o *Options) { o.ImageLabels = true })
	h.wants("a:running")
}
