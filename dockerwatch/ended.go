package dockerwatch

import "time"

// endsKept is how many ends are remembered, the last ones.
const endsKept = 256

// Ended is how a container of the mesh ended.
type Ended struct {
	Told bool   // to stop, or removed
	How  string // for people

	at time.Time
}

// ends are the last ends, by container ID.
type ends struct {
	byID  map[string]Ended
	order []string // of IDs, the oldest first
}

func (e *ends) put(id string, how Ended) {
	if e.byID == nil {
		e.byID = map[string]Ended{}
	}
	if _, known := e.byID[id]; !known {
		if len(e.order) == endsKept {
			delete(e.byID, e.order[0])
			e.order = e.order[1:]
		}
		e.order = append(e.order, id)
	}
	e.byID[id] = how
}

// Ended tells how a container ended that was started at a time, once the engine has said
// so. It may be called by any goroutine.
func (w *Watcher) Ended(id string, started time.Time) (how Ended, known bool) {
	w.crashes.mu.Lock()
	defer w.crashes.mu.Unlock()
	how, known = w.crashes.ends.byID[id]
	return how, known && !how.at.Before(started)
}
