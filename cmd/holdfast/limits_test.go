package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	pb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const ruleFile = `domain: shop
descriptors:
  - {key: tenant, rate_limit: {unit: day, requests_per_unit: 3}}
  - {key: many, rate_limit: {unit: day, requests_per_unit: 1000000}}
`

// forTenant is a call as Envoy makes it.
func forTenant(key, value string) *pb.RateLimitRequest {
	return &pb.RateLimitRequest{Domain: "shop", Descriptors: []*common.RateLimitDescriptor{
		{Entries: []*common.RateLimitDescriptor_Entry{{Key: key, Value: value}}},
	}}
}

func TestServeForEnvoy(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	var keys, errs bytes.Buffer
	if err := run([]string{"key", "new", "envoy"}, &keys, &errs); err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(errs.String(), "Bearer ")
	secret, _, _ := strings.Cut(after, "\n")
	for name, text := range map[string]string{"config": keys.String(), "limits": ruleFile} {
		if err := os.WriteFile(file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := free(t)
	p := start(t, "serve", "--listen", "127.0.0.1:0", "--store", "mem:", "--db", "sqlite:"+file("db"), "--provider", "http://127.0.0.1:1",
		"--config", file("config"), "--limits", file("limits"), "--limits-grpc", address, "--limits-timeout", "5s", "--ready-file", file("s"))
	base := "http://" + p.address(file("s"))
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	limits := pb.NewRateLimitServiceClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := limits.ShouldRateLimit(ctx, forTenant("tenant", "a")); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a key: %v", err)
	}
	if h, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || h.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", h, err)
	}
	withKey := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+secret)
	ok := 0
	for range 5 {
		out, err := limits.ShouldRateLimit(withKey, forTenant("tenant", "a"))
		if err != nil {
			t.Fatal(err)
		}
		if out.OverallCode == pb.RateLimitResponse_OK {
			ok++
		}
	}
	if ok != 3 {
		t.Errorf("%d of 5 are OK, not 3", ok)
	}
	if text := body(t, base+"/metrics"); !strings.Contains(text, `holdfast_envoy_call_seconds_count{outcome="ok"} 3`) || !strings.Contains(text, `holdfast_envoy_call_seconds_count{outcome="over_limit"} 2`) {
		t.Errorf("the metrics do not tell: %s", text)
	}
	// Who calls while the server ends is answered, or told that nobody is there.
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				_, err := limits.ShouldRateLimit(withKey, forTenant("many", "x"))
				if status.Code(err) == codes.Unavailable {
					return
				}
				if err != nil {
					t.Errorf("while it ends: %v", err)
					return
				}
			}
		})
	}
	p.terminate()
	wg.Wait()
}

func body(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What is wrong with limits is said before anything is served, and by the check of a configuration too.
func TestLimitsRefused(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{"good": ruleFile, "bad": "domain: shop\ndescriptors:\n  - {key: a, rate_limit: {unit: fortnight, requests_per_unit: 1}}\n"} {
		if err := os.WriteFile(file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	common := []string{"--listen", "127.0.0.1:0", "--store", "mem:", "--db", "sqlite:" + file("db"), "--provider", "http://127.0.0.1:1"}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--limits", file("bad")}, file("bad") + ":3: "},
		{[]string{"--limits", file("none")}, file("none")},
		{[]string{"--limits-grpc", "127.0.0.1:0"}, "--limits"},
		{[]string{"--limits", file("good"), "--limits-grpc", "0.0.0.0:0"}, "holdfast key new"},
		{[]string{"--limits", file("good"), "--limits-grpc", "nowhere"}, "nowhere"},
		{[]string{"--limits", file("good"), "--limits-timeout", "1h"}, "imeout"},
	} {
		for _, command := range [][]string{{"serve"}, {"config", "check", "--offline"}} {
			var out bytes.Buffer
			err := run(append(append(append([]string{}, command...), common...), c.args...), &out, &out)
			if err == nil || !strings.Contains(err.Error()+out.String(), c.says) {
				t.Errorf("%v %v: %v\n%s", command, c.args, err, out.String())
			}
		}
	}
	var out bytes.Buffer
	args := append(append([]string{"config", "check", "--offline"}, common...), "--limits", file("good"), "--limits-grpc", "127.0.0.1:8081")
	if err := run(args, &out, &out); err != nil || !strings.Contains(out.String(), "2 rules, for Envoy at 127.0.0.1:8081") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
