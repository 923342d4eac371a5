package agent

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"shoal/diagnose"
	"shoal/lab/wait"
	"shoal/model"
)

func TestAnAddressThatIsTakenIsAProblemUntilItIsFree(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := taken.Addr().String()
	a := &Agent{config: Config{Node: "a"}, problems: diagnose.NewProblems("a", slog.New(slog.DiscardHandler))}
	ctx, cancel := context.WithCancel(t.Context())
	ended, served := make(chan error, 1), make(chan bool)
	go func() {
		ended <- a.listening(ctx, "metrics-addr", addr, func(ctx context.Context, l net.Listener) error {
			served <- true
			<-ctx.Done()
			return nil
		})
	}()
	wait.For(t, 10*time.Second, "a problem", func() bool { return len(a.problems.List()) == 1 })
	if p := a.problems.List()[0]; p.Code != model.ListenFailed || !strings.Contains(p.Reason, "--metrics-addr "+addr) || !strings.Contains(p.Reason, "in use") {
		t.Errorf("the problem is %+v", p)
	}
	taken.Close()
	select {
	case <-served:
	case <-time.After(10 * time.Second):
		t.Fatal("it is not served once the address is free")
	}
	if ps := a.problems.List(); len(ps) > 0 {
		t.Errorf("there are still %+v", ps)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
