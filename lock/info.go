package lock

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Holder is a lease as others see it. Times are the engine's.
type Holder struct {
	Owner   string    `json:"owner"`
	Token   int64     `json:"token"` // the store's; with Options.Fence the one in use is another
	Who     string    `json:"who"`
	Permits int64     `json:"permits"` // of Of
	Of      int64     `json:"of"`
	Mode    string    `json:"mode"` // exclusive, shared or semaphore
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"` // unless it is renewed
	End     time.Time `json:"end"`   // whatever happens
}

// Waiting is one who waits.
type Waiting struct {
	Owner string `json:"owner"`
	Who   string `json:"who"`
	Mode  string `json:"mode"`
	Alive bool   `json:"alive"` // otherwise it is passed over when its turn comes
}

// Info is who has a name and who waits for it.
type Info struct {
	Name    string    `json:"name"`
	Now     time.Time `json:"now"` // the engine's clock
	Holders []Holder  `json:"holders"`
	Waiters int64     `json:"waiters"` // how many
	Line    []Waiting `json:"line"`    // the first of them, in order
}

const maxLine = 100

// Info looks at a name. Errors: ErrInvalid, the store's.
func (l *Locker) Info(ctx context.Context, name string) (Info, error) {
	if _, err := l.check(name, Request{}); err != nil {
		return Info{}, err
	}
	at := placeOf(name)
	out, err := look.Do(ctx, l.store, lookIn{at.held, at.queue, at.waiters, maxLine})
	if err != nil {
		return Info{}, fmt.Errorf("lock: %q: %w", name, err)
	}
	info := Info{Name: name, Now: time.UnixMicro(out.Now), Waiters: out.Waiting, Holders: []Holder{}, Line: []Waiting{}}
	for _, text := range out.Leases {
		owner, v, _ := strings.Cut(text, " ")
		x := parseLease(v)
		info.Holders = append(info.Holders, Holder{owner, x.token, x.who, x.weight, x.of, modeOf(x.weight, x.of),
			time.UnixMicro(x.since), time.UnixMicro(x.deadline), time.UnixMicro(x.end)})
	}
	for _, text := range out.Line {
		owner, v, _ := strings.Cut(text, " ")
		x := parseWaiter(v)
		info.Line = append(info.Line, Waiting{owner, x.who, modeOf(x.weight, x.of), x.alive > out.Now})
	}
	return info, nil
}

func modeOf(weight, of int64) string {
	switch {
	case of != everything:
		return "semaphore"
	case weight == of:
		return "exclusive"
	}
	return "shared"
}

// atOnce is how many questions List and All have on their way together.
const atOnce = 64

// List is the names that are held or were not long ago, sorted, at most limit (1..10,000) of them; when
// there are more, it is any of them. It asks 1,024 times, so it is for people, not for programs.
func (l *Locker) List(ctx context.Context, limit int) ([]string, error) {
	if limit < 1 || limit > maxList {
		return nil, invalid("limit", "%d is not in 1..%d", limit, maxList)
	}
	var found [buckets][]string
	ask, ctx := errgroup.WithContext(ctx)
	ask.SetLimit(atOnce)
	for b := range buckets {
		ask.Go(func() error {
			out, err := names.Do(ctx, l.store, namesIn{tags[b] + "names", 0, int64(limit)})
			found[b] = out.Names
			return err
		})
	}
	if err := ask.Wait(); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	all := slices.Concat(found[:]...)
	all = all[:min(len(all), limit)]
	slices.Sort(all)
	return all, nil
}

const maxList = 10_000

// All is who holds what: names that somebody holds, sorted, at most limit (1..10,000) of them, and
// whether there are more. It costs what List costs and one more question for each name.
func (l *Locker) All(ctx context.Context, limit int) (all []Info, more bool, err error) {
	if limit < 1 || limit > maxList {
		return nil, false, invalid("limit", "%d is not in 1..%d", limit, maxList)
	}
	list, err := l.List(ctx, maxList)
	if err != nil {
		return nil, false, err
	}
	for some := range slices.Chunk(list, atOnce) {
		infos := make([]Info, len(some))
		ask, ctx := errgroup.WithContext(ctx)
		for i, name := range some {
			ask.Go(func() (err error) {
				infos[i], err = l.Info(ctx, name)
				return err
			})
		}
		if err := ask.Wait(); err != nil {
			return nil, false, err
		}
		all = append(all, slices.DeleteFunc(infos, func(i Info) bool { return len(i.Holders) == 0 })...)
		if len(all) > limit {
			return all[:limit], true, nil
		}
	}
	return all, len(list) == maxList, nil
}

// Break ends somebody else's lease or place in line, by its owner, and says whether there was one. The
// holder learns it at its next renewal; until then only a guard protects. Errors: the store's.
func (l *Locker) Break(ctx context.Context, name, owner, reason string) (bool, error) {
	if _, err := l.check(name, Request{}); err != nil {
		return false, err
	}
	if reason == "" || len(reason) > 1000 {
		return false, invalid("reason", "is not 1..1000 bytes")
	}
	outcome, err := l.end(ctx, name, placeOf(name), owner, 0)
	if err != nil {
		return false, fmt.Errorf("lock: %q: %w", name, err)
	}
	if outcome != hadNothing {
		l.opts.Logger.Warn("lock: broken", "name", name, "owner", owner, "reason", reason)
	}
	return outcome != hadNothing, nil
}
