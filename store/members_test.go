package store

import (
	"context"
	"errors"
	"testing"

	"shoal/model"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestAChangeOfMembersIsAskedForAgain, also if a removal ended the etcd that it reached, so that nobody answers.
func TestAChangeOfMembersIsAskedForAgain(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	for name, test := range map[string]struct {
		answers []error
		asked   int
		err     error
	}{
		"done":                          {[]error{nil}, 1, nil},
		"refused":                       {[]error{refused}, 1, refused},
		"it stopped before it answered": {[]error{rpctypes.ErrStopped, nil}, 2, nil},
		"its raft stopped":              {[]error{status.Error(codes.Unknown, "raft: stopped"), nil}, 2, nil},
		"a member is not healthy yet":   {[]error{rpctypes.ErrUnhealthy, rpctypes.ErrUnhealthy, rpctypes.ErrUnhealthy, nil}, 4, nil},
		"nobody answers":                {[]error{rpctypes.ErrTimeout, rpctypes.ErrStopped, context.DeadlineExceeded}, 3, model.ErrAway},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			err := new(Store).changeMembers(t.Context(), func(context.Context) error {
				asked++
				return test.answers[asked-1]
			})
			if asked != test.asked || !errors.Is(err, test.err) {
				t.Errorf("asked %d times, want %d; %v, want %v", asked, test.asked, err, test.err)
			}
		})
	}
}
