package store

import (
	"context"
	"crypto/x509"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// An open connection outlives the certificate it was made with: etcd checks its
// CRL in the handshake and not again, and cannot close a client's connection. So
// each request is checked, and each message of a stream in both directions: a
// removed host receives nothing more on a watch it had open.

// revokedOptions have etcd refuse clients whose certificate does not pass check.
func revokedOptions(check func(*x509.Certificate) error) []grpc.ServerOption {
	verify := func(ctx context.Context) error {
		p, ok := peer.FromContext(ctx)
		if !ok {
			return nil
		}
		t, ok := p.AuthInfo.(credentials.TLSInfo)
		if !ok || len(t.State.PeerCertificates) == 0 {
			return nil // over the unix socket
		}
		if err := check(t.State.PeerCertificates[0]); err != nil {
			return status.Error(codes.PermissionDenied, err.Error())
		}
		return nil
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			if err := verify(ctx); err != nil {
				return nil, err
			}
			return handle(ctx, r)
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			ctx, cancel := context.WithCancel(s.Context())
			defer cancel()
			c := &checkedStream{s, ctx, func() error {
				err := verify(ctx)
				if err != nil {
					cancel() // what serves the stream ends by it
				}
				return err
			}}
			if err := c.check(); err != nil {
				return err
			}
			return handle(srv, c)
		}),
	}
}

// checkedStream checks who is at the other end with each message.
type checkedStream struct {
	grpc.ServerStream
	ctx   context.Context
	check func() error
}

func (s *checkedStream) Context() context.Context { return s.ctx }

func (s *checkedStream) SendMsg(m any) error {
	if err := s.check(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (s *checkedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.check()
}
