package flashsale

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-dev/holdfast/internal/idem"
	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/sqldb"
)

const (
	// batch is how many permits go with one decision.
	batch = 500
	// buildBatch is how many go with one decision while nobody can be admitted anyhow.
	buildBatch = 2000
	// gatePoll is the pause between looks at a gate that somebody else builds.
	gatePoll = 20 * time.Millisecond
)

// permitOf is the permit's id: the same key has the same permit, so a repeat takes no other.
func permitOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	if mutant.IdempotencyOff {
		_, _ = rand.Read(sum[:]) // never fails
	}
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// admit gets a permit for the attempt, and returns until when it has it, by the store's clock;
// or the answer that SQL has for the key.
func (s *Sales) admit(ctx context.Context, t *terms, a attempt) (deadline int64, held Held, err error) {
	in := admitIn{
		Permits: permitsKey(t.ID), Spent: spentKey(t.ID), Gate: gateKey(t.ID),
		KeyLife: s.opts.KeyLife.Microseconds(), ID: a.permit, Life: s.opts.PermitLife.Microseconds(),
	}
	for {
		out, err := admit.Do(ctx, s.store, in)
		if err != nil {
			return 0, held, err
		}
		switch out.Outcome {
		case admitted:
			return out.Deadline, held, nil
		case soldOut:
			s.refreshMark(t)
			return 0, held, ErrSoldOut
		case notOpen:
			return 0, held, ErrNotOpen
		case spent:
			answer, err := idem.Lookup(ctx, s.db, a.key)
			if err != nil {
				return 0, held, sqlRefusal(err)
			}
			if answer != nil {
				held, err := replay(answer)
				return 0, held, err
			}
			in.Fresh = true
		case noGate:
			if err := s.buildOrWait(ctx, t); err != nil {
				return 0, held, err
			}
		}
	}
}

// extendPermit gives a permit at least this long to live from now; forever when life is
// negative.
func (s *Sales) extendPermit(ctx context.Context, sale, permit string, life time.Duration) error {
	return s.extendPermits(ctx, sale, []string{permit, lifeOf(life)}, nil)
}

func lifeOf(d time.Duration) string {
	if d < 0 {
		return forever
	}
	return strconv.FormatInt(d.Microseconds(), 10)
}

func (s *Sales) extendPermits(ctx context.Context, sale string, items []string, changed *int64) error {
	out, err := extend.Do(ctx, s.store, extendIn{
		Permits: permitsKey(sale), Spent: spentKey(sale), Gate: gateKey(sale),
		KeyLife: s.opts.KeyLife.Microseconds(), Items: items,
	})
	if err == nil && changed != nil {
		*changed += out.Changed
	}
	return err
}

// giveBackRefused ends a permit that SQL refused, unless another attempt with the same key has
// prolonged it since.
func (s *Sales) giveBackRefused(ctx context.Context, sale, permit string, deadline int64) {
	if _, err := s.giveBack(ctx, sale, []string{permit}, deadline, false); err != nil {
		s.opts.Logger.Info("flashsale: a refused permit lapses by itself", "sale", sale, "error", err)
	}
}

// giveBackEnded ends the permits of holds that have ended in SQL. What fails here, the
// reconciler does.
func (s *Sales) giveBackEnded(ctx context.Context, sale string, permits ...string) {
	if _, err := s.giveBack(ctx, sale, permits, 0, true); err != nil {
		s.opts.Logger.Info("flashsale: permits not given back yet", "sale", sale, "error", err)
	}
}

func (s *Sales) giveBack(ctx context.Context, sale string, permits []string, only int64, answer bool) (ended int64, err error) {
	for len(permits) > 0 {
		n := min(len(permits), batch)
		out, err := giveBack.Do(ctx, s.store, giveBackIn{
			Permits: permitsKey(sale), Spent: spentKey(sale), Gate: gateKey(sale),
			KeyLife: s.opts.KeyLife.Microseconds(), Only: only, Answer: answer, IDs: permits[:n],
		})
		if err != nil {
			return ended, err
		}
		ended += out.Ended
		permits = permits[n:]
	}
	return ended, nil
}

// building is a gate on its way.
type building struct {
	done chan struct{} // closed when err is known
	err  error
}

// buildOrWait returns when there is a gate, whoever has built it. The work is not the request's, because a large sale takes
// longer than a request has; and however many requests wait, the store is asked by one.
func (s *Sales) buildOrWait(ctx context.Context, t *terms) error {
	b, err := s.startBuilding(t)
	if err != nil {
		return err
	}
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return fmt.Errorf("flashsale: the gate is being built: %w", ctx.Err())
	}
}

// startBuilding begins to build the gate, unless this process is at it.
func (s *Sales) startBuilding(t *terms) (*building, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.building != nil {
		return t.building, nil
	}
	b := &building{done: make(chan struct{})}
	running := s.background(func() {
		b.err = s.buildUntilOpen(s.work, t)
		t.mu.Lock()
		t.building = nil
		t.mu.Unlock()
		close(b.done)
	})
	if !running {
		return nil, ErrClosed
	}
	t.building = b
	return b, nil
}

// buildUntilOpen builds the gate, or looks whether somebody else has done it. A builder that dies is followed within
// buildPatience.
func (s *Sales) buildUntilOpen(ctx context.Context, t *terms) error {
	for {
		open, err := s.buildGate(ctx, t)
		switch {
		case ctx.Err() != nil:
			return ErrClosed
		case open || err != nil:
			return err
		}
		s.wait(time.After(gatePoll))
	}
}

// buildGate builds the gate of a sale from SQL; false: somebody else is at it. While it is being built, whoever commits a hold
// adds its permit itself; what ends meanwhile and is added all the same, the reconciler ends.
func (s *Sales) buildGate(ctx context.Context, t *terms) (open bool, err error) {
	gen, err := uuid.NewRandom()
	if err != nil {
		return false, fmt.Errorf("flashsale: %w", err)
	}
	in := buildIn{
		Permits: permitsKey(t.ID), Spent: spentKey(t.ID), Gate: gateKey(t.ID),
		KeyLife: s.opts.KeyLife.Microseconds(), Step: "begin", Gen: gen.String(), Cap: t.Stock, Opens: t.OpensAt.UnixMicro(),
	}
	if mutant.StoreCheckOff {
		in.Cap = 1 << 40
	}
	t.mu.Lock()
	in.GivenUp = t.givenUp
	t.givenUp = in.Gen // until it is done: an engine may do what nobody waits for any more
	t.mu.Unlock()
	if out, err := build.Do(ctx, s.store, in); err != nil || !out.Done {
		return out.Open, err
	}
	defer s.keepBuilding(ctx, in)()
	in.Step = "add"
	for last := ""; ; {
		if in.Items, last, err = s.permitsInSQL(ctx, t.ID, last); err != nil {
			return false, err
		}
		if len(in.Items) == 0 {
			break
		}
		if out, err := build.Do(ctx, s.store, in); err != nil || !out.Done {
			return false, err
		}
	}
	in.Step = "open"
	out, err := build.Do(ctx, s.store, in)
	if err == nil && out.Done {
		s.stats.rebuilt.Add(1)
		s.opts.Logger.Info("flashsale: gate built from SQL", "sale", t.ID)
	}
	return out.Open, err
}

// keepBuilding says that the builder lives, however long SQL takes, until stop is called.
func (s *Sales) keepBuilding(ctx context.Context, in buildIn) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	in.Step = "add"
	go func() {
		defer close(ended)
		for {
			select {
			case <-time.After(buildPatience * time.Microsecond / 4):
			case <-ctx.Done():
				return
			}
			_, _ = build.Do(ctx, s.store, in) // who has lost it is told at the next step
		}
	}()
	return func() { cancel(); <-ended }
}

// permitsInSQL reads a page of a sale's holds: live ones with what is left of their time,
// confirmed ones, and those that ended while their key can still be repeated.
func (s *Sales) permitsInSQL(ctx context.Context, sale, after string) (items []string, last string, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		items, last = nil, after
		rows, err := tx.Query(ctx, `
			SELECT id, permit, CASE
				WHEN state = 'confirmed' THEN -1
				WHEN state = 'held' AND expires_at > holdfast_now() THEN expires_at - holdfast_now() + $3
				ELSE -2 END
			FROM holds
			WHERE sale = $1 AND id > $2 AND (state IN ('held', 'confirmed') OR changed_at > holdfast_now() - $4)
			ORDER BY id LIMIT $5`,
			sale, after, permitMargin.Microseconds(), s.opts.KeyLife.Microseconds(), buildBatch)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var permit string
			var life int64
			if err := rows.Scan(&last, &permit, &life); err != nil {
				return err
			}
			items = append(items, permit, strconv.FormatInt(life, 10))
		}
		return rows.Err()
	})
	return items, last, err
}
