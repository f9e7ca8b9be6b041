package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Key is who may call. The key itself is nowhere, only its hash: it has 256 random bits, so a
// plain SHA-256 is enough.
type Key struct {
	Name   string `yaml:"name"`   // shown in logs, and part of every idempotency scope
	SHA256 string `yaml:"sha256"` // of the key, in hex

	Operator bool `yaml:"operator"` // may make backups
}

// NewKey makes a key and what the configuration needs of it.
func NewKey(name string) (secret string, k Key, err error) {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails
	secret = "hf_" + base64.RawURLEncoding.EncodeToString(raw[:])
	sum := sha256.Sum256([]byte(secret))
	k = Key{Name: name, SHA256: hex.EncodeToString(sum[:])}
	return secret, k, CheckKeys([]Key{k})
}

var keyName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// CheckKeys says what is wrong with keys of a configuration.
func CheckKeys(keys []Key) error {
	names := map[string]bool{}
	for i, k := range keys {
		sum, err := hex.DecodeString(k.SHA256)
		switch {
		case !keyName.MatchString(k.Name):
			return fmt.Errorf("server: key %d: name %q must be 1..64 letters, digits, dots, - or _", i+1, k.Name)
		case names[k.Name]:
			return fmt.Errorf("server: two keys have the name %q", k.Name)
		case err != nil || len(sum) != sha256.Size:
			return fmt.Errorf("server: key %q: sha256 is not 64 hexadecimal digits", k.Name)
		}
		names[k.Name] = true
	}
	return nil
}

// caller is the name of the key that a request came with.
func caller(ctx context.Context) string {
	if t := tagsOf(ctx); t != nil {
		return t.caller
	}
	return ""
}

// authenticated lets in who has a key. Without any keys everybody on this machine is in.
func (s *Server) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "local"
		if len(s.Keys) > 0 {
			if name = s.owner(r.Header.Get("Authorization")); name == "" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="holdfast"`)
				writeProblem(w, problem(http.StatusUnauthorized, "unauthorized", "an API key is needed: Authorization: Bearer KEY"))
				return
			}
		}
		tagsOf(r.Context()).caller = name
		next.ServeHTTP(w, r)
	})
}

var errNotOperator = errors.New("server: the key is no operator's")

// mayOperate says whether the caller may do what is for those who run the server.
func (s *Server) mayOperate(ctx context.Context) bool {
	if len(s.Keys) == 0 {
		return true // this machine alone is served
	}
	name := caller(ctx)
	return slices.ContainsFunc(s.Keys, func(k Key) bool { return k.Operator && k.Name == name })
}

func (s *Server) owner(header string) (name string) { return Owner(s.Keys, header) }

// Owner is whose key an Authorization field holds, "" when it is nobody's. It compares with every key, in constant
// time, so that time tells nothing.
func Owner(keys []Key, header string) (name string) {
	secret, ok := strings.CutPrefix(header, "Bearer ")
	if !ok {
		return ""
	}
	sum := sha256.Sum256([]byte(secret))
	got := []byte(hex.EncodeToString(sum[:]))
	for _, k := range keys {
		if subtle.ConstantTimeCompare(got, []byte(strings.ToLower(k.SHA256))) == 1 {
			name = k.Name
		}
	}
	return name
}

// trusted refuses, on a server without keys, requests that a foreign page can make a browser
// send: with a Host that is not this machine (DNS rebinding), or from another origin.
func (s *Server) trusted(next http.Handler) http.Handler {
	if len(s.Keys) > 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		switch {
		case !loopback(r.Host):
			writeProblem(w, problem(http.StatusForbidden, "host", "without API keys only this machine is served"))
		case origin != "" && !sameHost(origin, r.Host):
			writeProblem(w, problem(http.StatusForbidden, "origin", "pages of other origins are not served"))
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func sameHost(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host == host
}

// loopback says whether host, with or without a port, is this machine.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
