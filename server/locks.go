package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/lock"
)

// maxWait bounds how long one request stands in line: its answer has to be written within writeAll, and
// proxies close a connection on which nothing is said for half a minute.
const maxWait = 20 * time.Second

type LockPath struct {
	Name string `path:"name" minLength:"1" maxLength:"512" doc:"What is locked: 1..512 bytes of UTF-8 without control characters, percent-encoded (a slash is %2F)."`
}

type LeasePath struct {
	LockPath
	Lease string `path:"lease" maxLength:"300" doc:"The lease's id, as acquiring gave it."`
}

// Terms are how locks are wanted.
type Terms struct {
	TTL     int64  `json:"ttl_ms,omitempty" minimum:"100" maximum:"3600000" doc:"Life of the lease if it is not renewed; 10,000 if left out."`
	MaxHold int64  `json:"max_hold_ms,omitempty" minimum:"100" maximum:"86400000" doc:"End of the lease however often it is renewed, ttl_ms at least; an hour if left out."`
	Wait    int64  `json:"wait_ms,omitempty" minimum:"0" maximum:"20000" doc:"How long to stand in line, first come first served; 0: not at all."`
	Shared  bool   `json:"shared,omitempty" doc:"Others who ask for it shared may have it at the same time."`
	Permits int64  `json:"permits,omitempty" minimum:"1" maximum:"100000" doc:"It is a semaphore: so many permits of it are wanted. Needs of."`
	Of      int64  `json:"of,omitempty" minimum:"1" maximum:"100000" doc:"How many permits there are in all; everybody has to say the same."`
	Who     string `json:"who,omitempty" maxLength:"200" doc:"Who wants it, for people who look; the API key's name if left out."`
}

// Wish is how one lock is wanted.
type Wish struct {
	Terms
	KeepPlace bool `json:"keep_place,omitempty" doc:"When the wait is over, keep the place in line for 3 s, for a request with the same Idempotency-Key."`
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func (w Terms) request(caller string) lock.Request {
	who := w.Who
	if who == "" {
		who = caller
	}
	return lock.Request{Shared: w.Shared, Permits: w.Permits, Of: w.Of, TTL: milliseconds(w.TTL), MaxHold: milliseconds(w.MaxHold), Who: who}
}

type acquireInput struct {
	MayKeyed
	LockPath
	Body *Wish
}

type acquireAllInput struct {
	Body struct {
		Terms
		Names []string `json:"names" minItems:"1" maxItems:"100" doc:"What is locked, all or none, whatever their order."`
	}
}

// Lease is a lock that is held.
type Lease struct {
	Lock      string `json:"lock"`
	Lease     string `json:"lease" doc:"Its id. Whoever knows it, with the same API key, renews and releases the lease: a secret of its holder."`
	Token     int64  `json:"token" doc:"The fencing token: larger than those of all earlier leases of the lock. What the lock protects has to refuse smaller ones (header Fencing-Token)."`
	ExpiresIn int64  `json:"expires_in_ms" doc:"What is left of its life. Count from before you sent the request; if that stood in line, renew at once and count from there."`
}

type leaseOutput struct{ Body Lease }

type leasesOutput struct {
	Body struct {
		Leases []Lease `json:"leases"`
	}
}

func leaseOf(c lock.Claim) Lease {
	_, secret, _ := strings.Cut(c.Owner, "/")
	return Lease{Lock: c.Name, Lease: fmt.Sprintf("%d-%s", c.Token, secret), Token: c.Token, ExpiresIn: c.Left.Milliseconds()}
}

// claim reads a lease's id. The owner in the store begins with the caller's name: an id is of no use
// with another caller's key.
func (in *LeasePath) claim(caller string) (lock.Claim, error) {
	number, secret, ok := strings.Cut(in.Lease, "-")
	token, err := strconv.ParseInt(number, 10, 64)
	if err != nil || !ok || token <= 0 || secret == "" || !plain(secret) {
		return lock.Claim{}, &lock.InvalidError{Field: "lease", Reason: "is no lease's id"}
	}
	return lock.Claim{Name: in.Name, Owner: caller + "/" + secret, Token: token}, nil
}

type renewInput struct {
	LeasePath
	Body struct {
		TTL int64 `json:"ttl_ms" minimum:"100" maximum:"3600000" doc:"Its life from now on, up to the end of max_hold_ms."`
	}
}

func (s *Server) lockRoutes() {
	acquire := s.operation("acquire-lock", http.MethodPost, "/v1/locks/{name}/leases", "Acquire a lock, or stand in line for it", 201)
	all := s.operation("acquire-locks", http.MethodPost, "/v1/leases", "Acquire several locks, all or none, or stand in line for them", 201)
	acquire.Errors, all.Errors = append(acquire.Errors, http.StatusTooManyRequests), append(all.Errors, http.StatusTooManyRequests)
	huma.Register(s.api, acquire, s.acquireLock)
	huma.Register(s.api, all, s.acquireLocks)
	huma.Register(s.api, s.operation("renew-lease", http.MethodPut, "/v1/locks/{name}/leases/{lease}", "Renew a lease", 200), s.renewLease)
	huma.Register(s.api, s.operation("release-lease", http.MethodDelete, "/v1/locks/{name}/leases/{lease}", "Release a lock", 204), s.releaseLease)
	huma.Register(s.api, s.operation("get-lock", http.MethodGet, "/v1/locks/{name}", "Who holds a lock, and who waits for it", 200), s.getLock)
	huma.Register(s.api, s.operation("list-locks", http.MethodGet, "/v1/locks", "Locks that somebody holds", 200), s.listLocks)
	breaking := s.operation("break-lock", http.MethodPost, "/v1/locks/{name}/breaks", "End other's leases of a lock; for operators", 200)
	breaking.Errors = append(breaking.Errors, http.StatusForbidden)
	huma.Register(s.api, breaking, s.breakLock)
}

// owner is who a request acquires for. With an Idempotency-Key it is the same for a repeat of the
// same request; another wish is another request.
func owner(ctx context.Context, scope string, w Wish) string {
	secret := rand.Text()
	if scope != "" && !mutant.RepeatNew {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%v %d %d", scope, w.Shared, w.Permits, w.Of))
		secret = base32.StdEncoding.EncodeToString(sum[:])[:len(secret)]
	}
	return caller(ctx) + "/" + secret
}

func (s *Server) acquireLock(ctx context.Context, in *acquireInput) (*leaseOutput, error) {
	began := time.Now()
	var w Wish
	if in.Body != nil {
		w = *in.Body
	}
	switch {
	case s.Locks == nil:
		return nil, s.noLocks(ctx)
	case w.KeepPlace && in.scope == "":
		return nil, fieldProblem("keep_place", "needs an Idempotency-Key, by which who comes back is known")
	}
	ctx, cancel := s.patient(ctx, w.KeepPlace)
	defer cancel()
	c, err := s.Locks.Claim(ctx, in.Name, lock.ClaimRequest{
		Request: w.request(caller(ctx)), Owner: owner(ctx, in.scope, w), Again: in.scope != "",
		Wait: milliseconds(w.Wait), KeepPlace: w.KeepPlace,
	})
	s.metrics.locks.count("acquire", began, err)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return &leaseOutput{leaseOf(c)}, nil
}

func (s *Server) acquireLocks(ctx context.Context, in *acquireAllInput) (*leasesOutput, error) {
	if s.Locks == nil {
		return nil, s.noLocks(ctx)
	}
	began, b := time.Now(), in.Body
	ctx, cancel := s.patient(ctx, false)
	defer cancel()
	claims, err := s.Locks.ClaimAll(ctx, b.Names, lock.ClaimRequest{
		Request: b.request(caller(ctx)), Owner: owner(ctx, "", Wish{}), Wait: milliseconds(b.Wait),
	})
	s.metrics.locks.count("acquire", began, err)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	out := &leasesOutput{}
	for _, c := range claims {
		out.Body.Leases = append(out.Body.Leases, leaseOf(c))
	}
	return out, nil
}

// patient is a context that does not last beyond the server's own end.
func (s *Server) patient(ctx context.Context, keepPlace bool) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	ending := lock.ErrClosed
	if keepPlace { // who comes back to another server, or to the next one here, has it still
		ending = errors.Join(lock.ErrClosed, lock.ErrKeepPlace)
	}
	stop := context.AfterFunc(s.work, func() { cancel(ending) })
	return ctx, func() { stop(); cancel(nil) }
}

func (s *Server) renewLease(ctx context.Context, in *renewInput) (*leaseOutput, error) {
	if s.Locks == nil {
		return nil, s.noLocks(ctx)
	}
	c, err := in.claim(caller(ctx))
	if err == nil {
		c, err = s.Locks.Renew(ctx, c, milliseconds(in.Body.TTL))
	}
	s.metrics.locks.count("renew", time.Time{}, err)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return &leaseOutput{leaseOf(c)}, nil
}

func (s *Server) releaseLease(ctx context.Context, in *LeasePath) (*struct{}, error) {
	if s.Locks == nil {
		return nil, s.noLocks(ctx)
	}
	c, err := in.claim(caller(ctx))
	if err == nil {
		err = s.Locks.Release(ctx, c)
	}
	s.metrics.locks.count("release", time.Time{}, err)
	return nil, s.fail(ctx, err)
}

var errNoLocks = errors.New("server: without locks")

func (s *Server) noLocks(ctx context.Context) error { return s.fail(ctx, errNoLocks) }
