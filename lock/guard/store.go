package guard

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/store"
)

//go:embed put.lua
var putLua string

type putIn struct {
	Key   string `store:"key"`
	Token int64
	Owner string
	Value string
	Life  int64 // µs
}

type putOut struct {
	OK    bool
	Token int64
}

// put is the shape that a decision of one's own has, too: Pass, then the write.
var put = store.Decide("guard.put", store.Lua(putLua), func(tx *store.Tx, in putIn) putOut {
	if !Pass(tx, in.Key, Fence{in.Token, in.Owner}) {
		return putOut{Token: tx.HInt(in.Key, "token")}
	}
	tx.HSet(in.Key, "value", in.Value)
	tx.Expire(in.Key, store.Until(tx.Now()+in.Life))
	return putOut{true, in.Token}
})

// Pass notes a fence in the fields token and owner of a hash, or says that a newer lease has been
// there. It is for bodies of decisions; put.lua shows the same for scripts.
func Pass(tx *store.Tx, key string, f Fence) bool {
	if had := tx.HInt(key, "token"); !mutant.GuardOff {
		owner, _ := tx.HGet(key, "owner")
		if f.Token < had || f.Token == had && owner != f.Owner {
			return false
		}
	}
	tx.HSetInt(key, "token", f.Token)
	tx.HSet(key, "owner", f.Owner)
	return true
}

// maxValue bounds what Put takes.
const maxValue = 1 << 20

func keyOf(resource string) string { return "guard:{" + resource + "}" }

// Put writes a value (at most 1 MiB) under a fence; it is gone life (1s..1 year) after the last Put,
// and its fence with it: life has to be longer than any holder can be late. Errors: ErrStale,
// ErrInvalid, the store's. After store.ErrOutcomeUnknown the same Put can be repeated.
func Put(ctx context.Context, s *store.Store, resource string, f Fence, value []byte, life time.Duration) error {
	if err := f.check(resource); err != nil {
		return err
	}
	switch {
	case len(value) > maxValue:
		return fmt.Errorf("%w: a value of %d bytes, more than %d", ErrInvalid, len(value), maxValue)
	case life < time.Second || life > 366*24*time.Hour:
		return fmt.Errorf("%w: life %s is not in 1s..366 days", ErrInvalid, life)
	}
	out, err := put.Do(ctx, s, putIn{keyOf(resource), f.Token, f.Owner, string(value), life.Microseconds()})
	if err != nil {
		return fmt.Errorf("guard: %q: %w", resource, err)
	}
	if !out.OK {
		return fmt.Errorf("%w: %q, token %d after %d", ErrStale, resource, f.Token, out.Token)
	}
	return nil
}

//go:embed get.lua
var getLua string

type getIn struct {
	Key string `store:"key"`
}

type getOut struct {
	Token int64
	Value string
}

var get = store.Decide("guard.get", store.Lua(getLua), func(tx *store.Tx, in getIn) getOut {
	value, _ := tx.HGet(in.Key, "value")
	return getOut{tx.HInt(in.Key, "token"), value}
})

// Get is what was put last, and the token with which; 0 when there is nothing. Errors: the store's.
func Get(ctx context.Context, s *store.Store, resource string) (value []byte, token int64, err error) {
	out, err := get.Do(ctx, s, getIn{keyOf(resource)})
	if err != nil {
		return nil, 0, fmt.Errorf("guard: %q: %w", resource, err)
	}
	return []byte(out.Value), out.Token, nil
}
