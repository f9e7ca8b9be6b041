package envoy_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/holdfast-dev/holdfast/ratelimit/envoy"
)

// said is what Serve said.
func (s *served) said(t *testing.T) error {
	t.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("Serve does not return")
		return nil
	}
}

func TestAuthorize(t *testing.T) {
	var outcomes sync.Map
	c := serve(t, limiter(t, openStore(t, "mem:"), patient, budget), envoy.Options{
		Authorize: func(field string) bool {
			if field == "panic" {
				panic("a mistake")
			}
			return field == "Bearer right"
		},
		Observe: func(outcome string, _ time.Duration) { outcomes.Store(outcome, true) },
	}, 0)
	for field, want := range map[string]codes.Code{"": codes.Unauthenticated, "Bearer wrong": codes.Unauthenticated, "panic": codes.Internal, "Bearer right": codes.OK} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if field != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", field)
		}
		if _, err := c.ShouldRateLimit(ctx, ask("budget", "model=a")); status.Code(err) != want {
			t.Errorf("%q: %v, not %v", field, err, want)
		}
		out, err := healthpb.NewHealthClient(c.conn).Check(ctx, &healthpb.HealthCheckRequest{Service: "envoy.service.ratelimit.v3.RateLimitService"})
		if err != nil || out.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health is for everybody: %v, %v", out, err)
		}
		cancel()
	}
	if _, ok := outcomes.Load("ok"); !ok {
		t.Error("nobody was told of the call")
	}
}

// A service that ends says so to who watches, finishes what has begun, and takes no more.
func TestGracefulStop(t *testing.T) {
	began, goOn := make(chan struct{}, 1), make(chan struct{})
	c := serve(t, limiter(t, openStore(t, "mem:"), patient, budget), envoy.Options{Authorize: func(string) bool {
		began <- struct{}{}
		<-goOn
		return true
	}}, 20*time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	watch, err := healthpb.NewHealthClient(c.conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := watch.Recv(); err != nil || out.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatal(out, err)
	}
	answered := make(chan error, 1)
	go func() {
		out, err := c.ShouldRateLimit(metadata.AppendToOutgoingContext(ctx, "authorization", "x"), ask("budget", "model=a"))
		if err == nil && out.OverallCode != pb.RateLimitResponse_OK {
			t.Error(out)
		}
		answered <- err
	}()
	<-began
	c.stop()
	for { // NOT_SERVING, perhaps, and then the end
		out, err := watch.Recv()
		if err != nil {
			break
		}
		if out.Status != healthpb.HealthCheckResponse_NOT_SERVING {
			t.Errorf("it ends, and says %v", out)
		}
	}
	select {
	case err := <-c.ended:
		t.Fatalf("it did not wait for a call that had begun: %v", err)
	case <-time.After(50 * time.Millisecond): // it waits: nothing to be polled
	}
	close(goOn)
	if err := <-answered; err != nil {
		t.Errorf("a call that had begun: %v", err)
	}
	if err := c.said(t); err != nil {
		t.Error(err)
	}
	if _, err := c.ShouldRateLimit(ctx, ask("budget", "model=a")); status.Code(err) != codes.Unavailable {
		t.Errorf("after the end: %v", err)
	}
}

// It does not wait longer than it was told to.
func TestCutOff(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	c := serve(t, limiter(t, openStore(t, "mem:"), patient, budget), envoy.Options{Authorize: func(string) bool {
		close(began)
		<-goOn
		return true
	}}, 10*time.Millisecond)
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "authorization", "x"), 20*time.Second)
	defer cancel()
	answered := make(chan error, 1)
	go func() {
		_, err := c.ShouldRateLimit(ctx, ask("budget", "model=a"))
		answered <- err
	}()
	<-began
	c.stop()
	if err := <-answered; status.Code(err) != codes.Unavailable {
		t.Errorf("a call that is cut off: %v", err)
	}
	close(goOn)
	if err := c.said(t); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("%v", err)
	}
}

func TestLimiterClosed(t *testing.T) {
	l := limiter(t, openStore(t, "mem:"), patient, budget)
	var outcome atomic.Value
	c := serve(t, l, envoy.Options{Observe: func(o string, _ time.Duration) { outcome.Store(o) }}, 0)
	if err := l.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := c.ShouldRateLimit(ctx, ask("budget", "model=a")); status.Code(err) != codes.Unavailable || outcome.Load() != "failed" {
		t.Errorf("%v, %v", err, outcome.Load())
	}
}
