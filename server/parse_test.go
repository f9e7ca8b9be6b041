package server

import (
	"strings"
	"testing"
)

func TestParseIdempotencyKey(t *testing.T) {
	for header, want := range map[string]string{
		`"abc"`:                              "abc",
		` "abc" `:                            "abc",
		`"a b"`:                              "a b",
		`"a\"b\\c"`:                          `a"b\c`,
		`"abc";v=1`:                          "abc",
		`abc`:                                "abc",
		`8e03978e-40d5-43`:                   "8e03978e-40d5-43",
		`"` + strings.Repeat("k", 255) + `"`: strings.Repeat("k", 255),
	} {
		if got, ok := parseIdempotencyKey(header); !ok || got != want {
			t.Errorf("%q: got %q, %t", header, got, ok)
		}
	}
	for _, header := range []string{
		``, ` `, `""`, `"abc`, `"abc" def`, `"a\n"`, `"a\`, "\"a\nb\"", `"ä"`, `ä`, `a b`, `a,b`, `a;b`, `a"b`,
		`"` + strings.Repeat("k", 256) + `"`, strings.Repeat("k", 256), `"a","b"`,
	} {
		if got, ok := parseIdempotencyKey(header); ok {
			t.Errorf("%q was read as %q", header, got)
		}
	}
}

// Whatever is read is bounded and reads the same when it is written by the book.
func FuzzIdempotencyKey(f *testing.F) {
	for _, seed := range []string{`"abc"`, `abc`, `"a\"b"`, `"abc";v=1`, `"`, `\`, ``} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		key, ok := parseIdempotencyKey(header)
		if !ok {
			return
		}
		if key == "" || len(key) > maxIdempotencyKey {
			t.Fatalf("%q gave %d bytes", header, len(key))
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
		if again, ok := parseIdempotencyKey(quoted); !ok || again != key {
			t.Fatalf("%q: %q, written as %q, is read as %q, %t", header, key, quoted, again, ok)
		}
	})
}

func TestCheckKeys(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	if err := CheckKeys([]Key{{Name: "a", SHA256: sum}, {Name: "b", SHA256: strings.ToUpper(sum), Operator: true}}); err != nil {
		t.Error(err)
	}
	for _, keys := range [][]Key{
		{{Name: "", SHA256: sum}}, {{Name: "a b", SHA256: sum}}, {{Name: "a", SHA256: sum}, {Name: "a", SHA256: sum}},
		{{Name: "a", SHA256: "0a"}}, {{Name: "a", SHA256: strings.Repeat("x", 64)}},
	} {
		if CheckKeys(keys) == nil {
			t.Errorf("%+v was accepted", keys)
		}
	}
}

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:80": true, "127.0.0.1:1": true, "[::1]:80": true, "::1": true, "127.8.8.8": true,
		"example.com": false, "localhost.example.com": false, "10.0.0.1:80": false, "0.0.0.0": false, "": false, ":80": false,
	} {
		if got := loopback(host); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
}

// The routes of the metrics are few, whatever is asked for.
func TestRouteOf(t *testing.T) {
	for path, want := range map[string]string{
		"/": "/", "/livez": "/livez", "/openapi.json": "/openapi.json", "/v1/sales": "/v1/sales", "/v1/sales/a": "/v1/sales/{sale}",
		"/v1/sales/a/holds": "/v1/sales/{sale}/holds", "/v1/sales/a/events": "/v1/sales/{sale}/events",
		"/v1/sales/a/holds/b": "/v1/sales/{sale}/holds/{hold}", "/v1/payments": "/v1/payments", "/v1/payments/x": "/v1/payments/{id}",
		"/v1/limits": "/v1/limits", "/v1/limits/decisions": "/v1/limits/decisions", "/v1/limits/refused": "/v1/limits/refused", "/v1/limits/x": "other",
		"/v1/limits/reservations/x": "/v1/limits/reservations/{id}", "/v1/limits/reservations/x/commits": "/v1/limits/reservations/{id}/commits",
		"/v1/limits/reservations/x/y": "other",
		"/v1/orders/x":                "/v1/orders/{id}", "/v1": "other", "/x/y": "other", "/openapi" + strings.Repeat("x", 99): "other", "/v1/a/b/c/d/e": "other",
	} {
		if got := routeOf(path); got != want {
			t.Errorf("%q: %q", path, got)
		}
	}
}
