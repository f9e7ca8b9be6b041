package server

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

const maxIdempotencyKey = 255

// parseIdempotencyKey reads the header of draft-ietf-httpapi-idempotency-key-header-07: a string
// of RFC 8941 ("abc"). Because many clients send it without the quotes, that is read too; both
// forms are the same key.
func parseIdempotencyKey(header string) (key string, ok bool) {
	header = strings.Trim(header, " \t")
	if !strings.HasPrefix(header, `"`) {
		return header, header != "" && len(header) <= maxIdempotencyKey && plain(header)
	}
	var b strings.Builder
	for i := 1; i < len(header); i++ {
		c := header[i]
		switch {
		case c == '"':
			rest := header[i+1:]
			return b.String(), b.Len() > 0 && b.Len() <= maxIdempotencyKey && (rest == "" || rest[0] == ';')
		case c == '\\':
			i++
			if i == len(header) || (header[i] != '"' && header[i] != '\\') {
				return "", false
			}
			c = header[i]
		case c < 0x20 || c > 0x7e:
			return "", false
		}
		b.WriteByte(c)
	}
	return "", false
}

// plain says whether s is visible ASCII without what separates in a header.
func plain(s string) bool {
	for _, c := range []byte(s) {
		if c <= 0x20 || c > 0x7e || c == '"' || c == ',' || c == ';' || c == '\\' {
			return false
		}
	}
	return true
}

// Keyed is a part of every input that needs an Idempotency-Key. Its Resolve runs before the
// handler.
type Keyed struct {
	IdempotencyKey string `header:"Idempotency-Key" doc:"A string that the client makes, unique to what it wants: draft-ietf-httpapi-idempotency-key-header-07." example:"\"8e03978e-40d5-43e8-bc93-6894a57f9324\""`

	scope string
}

// Resolve refuses a missing or malformed key, and makes the scope: who asks, with which method,
// for what, under which key.
func (k *Keyed) Resolve(ctx huma.Context) []error {
	u := ctx.URL()
	key, ok := parseIdempotencyKey(k.IdempotencyKey)
	if k.IdempotencyKey == "" || !ok {
		return []error{errKey}
	}
	k.scope = caller(ctx.Context()) + "\n" + ctx.Method() + "\n" + u.Path + "\n" + key
	return nil
}

// MayKeyed is a part of inputs that can have an Idempotency-Key.
type MayKeyed struct{ Keyed }

// Resolve refuses a malformed key.
func (k *MayKeyed) Resolve(ctx huma.Context) []error {
	if k.IdempotencyKey == "" {
		return nil
	}
	return k.Keyed.Resolve(ctx)
}

var _ huma.Resolver = (*Keyed)(nil)

var errKey = &keyError{}

// keyError makes the whole answer a 400, whatever else is wrong with the request.
type keyError struct{}

func (*keyError) Error() string  { return `needed: Idempotency-Key: "…", 1 to 255 visible characters` }
func (*keyError) GetStatus() int { return http.StatusBadRequest }
func (e *keyError) ErrorDetail() *huma.ErrorDetail {
	return &huma.ErrorDetail{Message: e.Error(), Location: "header.Idempotency-Key"}
}

// detached lets work go on for a client that has gone: it will ask again with the same key, and
// the answer should be there. The deadline stays.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, deadline)
}
