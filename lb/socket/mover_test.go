package socket

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"shoal/kernel/sockets"
)

// TestWhatBecomesOfSocketsThatAreToMove tells it by what several calls of Reconnect found.
func TestWhatBecomesOfSocketsThatAreToMove(t *testing.T) {
	no := errors.New("no")
	type call struct {
		found map[uint64]error
		err   error
	}
	for what, c := range map[string]struct {
		calls                             []call // the last one is repeated
		moved, elsewhere, unfound, failed []uint64
		err                               error
	}{
		"all at once":            {[]call{{found: map[uint64]error{1: nil, 2: nil}}}, []uint64{1, 2}, nil, nil, nil, nil},
		"one is overlooked":      {[]call{{found: map[uint64]error{1: nil}}, {found: map[uint64]error{2: nil}}}, []uint64{1, 2}, nil, nil, nil, nil},
		"one has ended":          {[]call{{found: map[uint64]error{1: nil}}, {}}, []uint64{1}, nil, []uint64{2}, nil, nil},
		"one is elsewhere":       {[]call{{found: map[uint64]error{1: nil, 2: fmt.Errorf("so: %w", sockets.ErrElsewhere)}}}, []uint64{1}, []uint64{2}, nil, nil, nil},
		"one cannot be":          {[]call{{found: map[uint64]error{1: nil, 2: no}}}, []uint64{1}, nil, nil, []uint64{2}, nil},
		"one hangs":              {[]call{{found: map[uint64]error{1: nil, 2: sockets.ErrBusy}}}, []uint64{1}, nil, nil, nil, sockets.ErrBusy},
		"there is no more time":  {[]call{{found: map[uint64]error{1: nil}, err: no}}, []uint64{1}, nil, nil, nil, no},
		"nothing could be found": {[]call{{err: no}}, nil, nil, nil, nil, no},
	} {
		m := movement{opts: Options{Reconnect: func(context.Context, map[uint64]sockets.Peer, func(uint64) netip.AddrPort) (map[uint64]error, error) {
			now := c.calls[0]
			if len(c.calls) > 1 {
				c.calls = c.calls[1:]
			}
			return now.found, now.err
		}}}
		err := m.run(t.Context(), map[uint64]peer{1: {}, 2: {}})
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", what, err, c.err)
		}
		for name, is := range map[string]struct {
			got  map[uint64]peer
			want []uint64
		}{"moved": {m.moved, c.moved}, "elsewhere": {m.elsewhere, c.elsewhere}, "unfound": {m.unfound, c.unfound}, "failed": {m.failed, c.failed}} {
			if got := slices.Sorted(maps.Keys(is.got)); !slices.Equal(got, is.want) {
				t.Errorf("%s: %s are %v, want %v", what, name, got, is.want)
			}
		}
	}
}
