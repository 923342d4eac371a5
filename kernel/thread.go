package kernel

import (
	"runtime"

	"github.com/vishvananda/netns"
)

// OnThread calls f on a thread that may go to another network namespace. The
// thread comes back to its own, or ends.
func OnThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err == nil {
			err = f()
			if netns.Set(home) == nil {
				runtime.UnlockOSThread()
			}
			home.Close()
		}
		result <- err
	}()
	return <-result
}
