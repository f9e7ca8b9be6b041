package envoy_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/ratelimit/envoy"
	"github.com/holdfast-dev/holdfast/store"
)

func TestMain(m *testing.M) {
	if code := m.Run(); code != 0 {
		os.Exit(code)
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// patient is for tests of what is decided: a busy machine is no store that is gone.
var patient = ratelimit.Options{Timeout: 10 * time.Second}

func limiter(t testing.TB, s *store.Store, o ratelimit.Options, files ...string) *ratelimit.Limiter {
	t.Helper()
	var all []ratelimit.File
	for i, text := range files {
		all = append(all, ratelimit.File{Name: fmt.Sprint("file ", i+1), Text: []byte(text)})
	}
	rules, err := ratelimit.ParseRules(all...)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ratelimit.New(s, rules, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

func openStore(t testing.TB, url string) *store.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := store.Open(ctx, url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// served is a service on a listener of this machine, and a client as Envoy's is: generated from the same files.
type served struct {
	conn *grpc.ClientConn
	pb.RateLimitServiceClient
	stop  context.CancelFunc
	ended chan error // what Serve said
}

func serve(t testing.TB, l *ratelimit.Limiter, o envoy.Options, grace time.Duration) *served {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &served{stop: stop, ended: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		s.ended <- envoy.New(l, o).Serve(ctx, lis, grace)
		close(done)
	}()
	s.conn, err = grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	s.RateLimitServiceClient = pb.NewRateLimitServiceClient(s.conn)
	t.Cleanup(func() {
		_ = s.conn.Close()
		stop()
		<-done
	})
	return s
}

// ask makes a call; descriptors are as "tenant=acme path=/a".
func ask(domain string, descriptors ...string) *pb.RateLimitRequest {
	in := &pb.RateLimitRequest{Domain: domain}
	for _, text := range descriptors {
		d := &common.RateLimitDescriptor{}
		for _, e := range strings.Fields(text) {
			key, value, _ := strings.Cut(e, "=")
			d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: key, Value: value})
		}
		in.Descriptors = append(in.Descriptors, d)
	}
	return in
}

func (s *served) call(t testing.TB, in *pb.RateLimitRequest) *pb.RateLimitResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, err := s.ShouldRateLimit(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Statuses) != len(in.Descriptors) {
		t.Fatalf("%d statuses for %d descriptors", len(out.Statuses), len(in.Descriptors))
	}
	return out
}

// admitted is how many of six calls are OK.
func (s *served) admitted(t testing.TB, in *pb.RateLimitRequest) (n int) {
	t.Helper()
	for range 6 {
		if s.call(t, in).OverallCode == pb.RateLimitResponse_OK {
			n++
		}
	}
	return n
}

// left is what a descriptor has left, without taking of it.
func (s *served) left(t testing.TB, domain, descriptor string) int {
	t.Helper()
	in := ask(domain, descriptor)
	hits(in, 0, 0)
	return int(s.call(t, in).Statuses[0].LimitRemaining)
}

// until polls.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// entriesOf are a call's descriptors as ratelimit has them.
func entriesOf(in *pb.RateLimitRequest) (all [][]ratelimit.Entry) {
	for _, d := range in.Descriptors {
		var entries []ratelimit.Entry
		for _, e := range d.Entries {
			entries = append(entries, ratelimit.Entry{Key: e.Key, Value: e.Value})
		}
		all = append(all, entries)
	}
	return all
}
