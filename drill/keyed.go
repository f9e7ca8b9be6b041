package drill

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"sync"
	"time"
)

// The kinds of requests that have a key.
const (
	kindHold    = "hold"
	kindPayment = "payment"
)

// keyed is what one client wants once, under one key, however often it asks.
type keyed struct {
	Kind  string
	Path  string
	Key   string
	Buyer string
	Hold  string `json:",omitempty"` // that is paid for
	Body  []byte

	mu      sync.Mutex
	Answers []keyAnswer // successes, and refusals of what was sent after the first of them
	firstAt time.Time   // when the first success arrived
}

// keyAnswer is one answer. After is how long after the first success had arrived the request
// was sent; below zero, the two crossed.
type keyAnswer struct {
	Status  int
	Problem string `json:",omitempty"`
	Body    string
	After   time.Duration
	Sent    int64 // µs
}

// success says whether the answer gave what was asked for.
func (a keyAnswer) success() bool {
	return a.Status == http.StatusCreated || a.Status == http.StatusAccepted
}

// note keeps an answer if it is to be judged.
func (k *keyed) note(r reply) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := keyAnswer{Status: r.status, Problem: r.problem, Body: string(r.body), After: -1, Sent: r.sent.UnixMicro()}
	if !k.firstAt.IsZero() {
		a.After = r.sent.Sub(k.firstAt)
	}
	switch {
	case a.success():
		if k.firstAt.IsZero() {
			k.firstAt = r.got
		}
	case k.firstAt.IsZero() || a.After < 0:
		return
	}
	k.Answers = append(k.Answers, a)
}

// told is the first success.
func (k *keyed) told() (body string, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range k.Answers {
		if a.success() {
			return a.Body, true
		}
	}
	return "", false
}

// first is when the first success arrived.
func (k *keyed) first() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.firstAt
}

// scope is what a server makes of the request: who asks, with which method, for what, under
// which key.
func (k *keyed) scope(caller string) string {
	return caller + "\n" + http.MethodPost + "\n" + k.Path + "\n" + k.Key
}

// stored is the hash under which SQL keeps the answer.
func (k *keyed) stored(caller string) string {
	sum := sha256.Sum256([]byte(k.scope(caller)))
	return hex.EncodeToString(sum[:])
}

// permit is the permit's id in the store.
func (k *keyed) permit(caller string) string {
	sum := sha256.Sum256([]byte(k.scope(caller)))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}
