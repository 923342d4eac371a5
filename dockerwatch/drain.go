package dockerwatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"shoal/model"
)

// Drain takes the tasks of a container out of rotation, as the signal to stop
// would, but sends none: they finish what they hold, and [Watcher.Stop] comes
// after. The container is one that runs, by its name, its ID or the beginning
// of its ID. Drain returns its tasks once emit has been called with them in the
// state Draining; a container that is no task, or whose labels were refused,
// has none, and that is no error. One that drains already is left as it is.
//
// It ends with the container, or with [Watcher.Undrain]. A container that is
// neither stopped nor undrained is back in rotation when it has had the time
// for both and a minute more: its longest drain and its stop timeout (never, if
// that is without end). It is not remembered by another Watcher.
func (w *Watcher) Drain(ctx context.Context, container string) (tasks []model.Task, err error) {
	err = w.command(ctx, func(v *inventory) error {
		f, err := v.lookup(container)
		if err != nil {
			return err
		}
		v.drain(f, time.Now().UTC())
		tasks = v.container(f).Tasks
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("drain container %s: %w", container, err)
	}
	return tasks, nil
}

// Processes are the first processes of the containers that run, by the containers'
// names. One that the engine does not tell is left out.
func (w *Watcher) Processes(ctx context.Context) (pids map[string]int, err error) {
	pids = map[string]int{}
	err = w.command(ctx, func(v *inventory) error {
		for _, f := range v.containers {
			if f.pid != 0 {
				pids[f.name] = f.pid
			}
		}
		return nil
	})
	return pids, err
}

// Undrain puts back what [Watcher.Drain] took out of rotation. It is an error
// if the container was told to stop since: that cannot be taken back. One that
// does not drain is left as it is.
func (w *Watcher) Undrain(ctx context.Context, container string) error {
	err := w.command(ctx, func(v *inventory) error {
		f, err := v.lookup(container)
		if err != nil {
			return err
		}
		return v.undrain(f)
	})
	if err != nil {
		return fmt.Errorf("put container %s back in rotation: %w", container, err)
	}
	return nil
}

// Stop stops a container as docker stop does: with its own stop signal, and
// SIGKILL after its own stop timeout. It returns when the container has ended,
// or with an error when ctx has; the engine goes on then.
func (w *Watcher) Stop(ctx context.Context, name string) error {
	docker, err := dial(w.host)
	if err != nil {
		return fmt.Errorf("stop container %s: %w", name, err)
	}
	defer docker.Close()
	err = docker.ContainerStop(ctx, name, container.StopOptions{})
	if errdefs.IsNotFound(err) {
		err = ErrUnknown
	}
	if err != nil {
		return fmt.Errorf("stop container %s: %w", name, err)
	}
	return nil
}

// ErrUnknown says that a container is not known, or does not run any more.
var ErrUnknown = errors.New("no such container runs on this host: docker ps lists those that do")

// command is something to do to the inventory in Run's goroutine.
type command struct {
	do     func(*inventory) error
	result chan<- error
}

// command has Run do something, and emit what follows of it. It waits for ctx
// if Run has not been called yet.
func (w *Watcher) command(ctx context.Context, do func(*inventory) error) error {
	result := make(chan error, 1)
	select {
	case w.commands <- command{do, result}:
		return <-result // which comes at once
	case <-w.ended:
		return errors.New("the Docker engine is no longer followed")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// runCommand carries out a command.
func (w *Watcher) runCommand(c command, emit func(model.Local)) {
	if w.last == nil {
		c.result <- errors.New("it is not known yet what the Docker engine runs: try again when it has been reached")
		return
	}
	err := c.do(w.inventory)
	if err == nil {
		w.tell(emit)
	}
	c.result <- err
}
