package envoy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strings"
	"time"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Limits of one connection.
const (
	maxStreams   = 1024
	maxMessage   = 64 << 10
	maxFields    = 16 << 10 // of metadata
	handshake    = 5 * time.Second
	pingsAtMost  = time.Second // Envoy's connection_keepalive may ping this often
	askIfSilent  = 30 * time.Second
	answerWithin = 10 * time.Second
)

// Serve answers on l until ctx is done, and tells its health (grpc.health.v1) to who asks. Then it is NOT_SERVING, closes l,
// tells every connection to go away, lets the calls that have begun end within grace, and returns nil.
func (s *Service) Serve(ctx context.Context, l net.Listener, grace time.Duration) error {
	ending, end := context.WithCancel(context.Background())
	defer end()
	g := grpc.NewServer(
		grpc.MaxConcurrentStreams(maxStreams), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxHeaderListSize(maxFields),
		grpc.ConnectionTimeout(handshake), grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingsAtMost, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: askIfSilent, Timeout: answerWithin}),
		grpc.ChainUnaryInterceptor(s.contained, s.authorized),
		grpc.StreamInterceptor(endsWith(ending)),
	)
	pb.RegisterRateLimitServiceServer(g, s)
	alive := health.NewServer()
	alive.SetServingStatus(pb.RateLimitService_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(g, alive)
	failed := make(chan error, 1)
	go func() { failed <- g.Serve(l) }()
	select {
	case err := <-failed:
		g.Stop()
		return err
	case <-ctx.Done():
	}
	alive.Shutdown()
	end() // who watches the health would be waited for
	return stop(g, grace, failed)
}

func stop(g *grpc.Server, grace time.Duration, failed <-chan error) error {
	done := make(chan struct{})
	go func() { g.GracefulStop(); close(done) }()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
		return <-failed
	case <-timer.C:
	}
	g.Stop()
	<-done
	return errors.Join(fmt.Errorf("ratelimit/envoy: calls were cut off after %s", grace), <-failed)
}

// contained makes an error of a panic: it ends one call, and not the process.
func (s *Service) contained(ctx context.Context, in any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (out any, err error) {
	defer func() {
		if r := recover(); r != nil {
			s.opts.Logger.Error("limits: a call panicked", "method", info.FullMethod, "panic", r, "stack", string(debug.Stack()))
			out, err = nil, status.Error(codes.Internal, "internal error")
		}
	}()
	return next(ctx, in)
}

func (s *Service) authorized(ctx context.Context, in any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if s.opts.Authorize == nil || strings.HasPrefix(info.FullMethod, "/"+healthpb.Health_ServiceDesc.ServiceName+"/") {
		return next(ctx, in)
	}
	for _, field := range metadata.ValueFromIncomingContext(ctx, "authorization") {
		if s.opts.Authorize(field) {
			return next(ctx, in)
		}
	}
	return nil, status.Error(codes.Unauthenticated, "an API key is needed: metadata authorization: Bearer KEY")
}

// endsWith ends streams when ctx does.
func endsWith(ctx context.Context) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		both, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return next(srv, &endingStream{stream, both})
	}
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context ends with the stream, or when the service ends.
func (s *endingStream) Context() context.Context { return s.ctx }
