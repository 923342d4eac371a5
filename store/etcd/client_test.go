package etcd

import (
	"context"
	"errors"
	"fmt"
	"shoal/model"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestUnreachableTellsSilenceFromRefusal(t *testing.T) {
	for err, want := range map[error]bool{
		context.DeadlineExceeded:                            true,
		fmt.Errorf("read: %w", context.DeadlineExceeded):    true,
		status.Error(codes.Unavailable, "refused"):          true,
		rpctypes.ErrNoLeader:                                true,
		rpctypes.ErrTimeoutDueToLeaderFail:                  true,
		context.Canceled:                                    false,
		rpctypes.ErrNoSpace:                                 false,
		rpctypes.ErrMemberNotFound:                          false,
		status.Error(codes.PermissionDenied, "certificate"): false,
	} {
		if got := Unreachable(err); errors.Is(got, model.ErrAway) != want || !errors.Is(got, err) {
			t.Errorf("%v: %v", err, got)
		}
	}
	if Unreachable(nil) != nil {
		t.Error("no error is one")
	}
}
