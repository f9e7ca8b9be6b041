package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/holdfast-dev/holdfast/internal/mutant"
)

// Header carries a lease's token and owner: a decimal number, and after a semicolon and a space, if
// there is one, owner="…".
const Header = "Fencing-Token"

// String is the header's value.
func (f Fence) String() string {
	if f.Owner == "" {
		return strconv.FormatInt(f.Token, 10)
	}
	return fmt.Sprintf("%d; owner=%q", f.Token, f.Owner)
}

// Parse reads a header's value. Error: ErrInvalid.
func Parse(value string) (Fence, error) {
	number, rest, more := strings.Cut(strings.TrimSpace(value), ";")
	token, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	f := Fence{Token: token}
	if err == nil && more {
		quoted, ok := strings.CutPrefix(strings.TrimSpace(rest), "owner=")
		if f.Owner, err = unquote(quoted); err == nil && !ok {
			err = ErrInvalid
		}
	}
	if err == nil {
		err = f.check("header")
	}
	if err != nil {
		return Fence{}, fmt.Errorf("%w: %s is not a number, or a number; owner=\"…\": %.100q", ErrInvalid, Header, value)
	}
	return f, nil
}

// unquote takes what Go and structured fields quote alike.
func unquote(s string) (string, error) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return "", ErrInvalid
	}
	return strconv.Unquote(s)
}

// HTTP calls handle with the fence that a request shows, also in the request's context (From), and
// answers for it when it returns an error: 409 for ErrStale, 400 for ErrInvalid, 500 for others,
// as RFC 9457 problems; 428 when a request shows none. It compares nothing itself, because there
// would be something between the comparison and the write: handle passes the fence to Check, Put or
// Pass. Error answers are written only if handle has written nothing.
func HTTP(handle func(w http.ResponseWriter, r *http.Request, f Fence) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		values := r.Header.Values(Header)
		if len(values) != 1 {
			problem(w, http.StatusPreconditionRequired, "fencing-token-required", Header+" has to be there once: the token of the lease under which this is written")
			return
		}
		f, err := Parse(values[0])
		if mutant.GuardIdle {
			f = Fence{Token: maxToken}
		}
		if err == nil {
			err = handle(w, r.WithContext(With(r.Context(), f)), f)
		}
		switch {
		case err == nil:
		case errors.Is(err, ErrStale):
			problem(w, http.StatusConflict, "fencing-token-stale", err.Error())
		case errors.Is(err, ErrInvalid):
			problem(w, http.StatusBadRequest, "fencing-token-invalid", err.Error())
		default:
			problem(w, http.StatusInternalServerError, "internal", "the write failed")
		}
	})
}

func problem(w http.ResponseWriter, status int, kind, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{ // who has gone hears nothing
		"type": "urn:holdfast:problem:" + kind, "title": http.StatusText(status), "status": status, "detail": detail})
}
