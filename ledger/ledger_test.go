package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/sqldb"
	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

func TestMain(m *testing.M) { sqldbtest.Main(m) }

// The accounts of most tests: money comes from the bank, which may be overdrawn.
var accounts = []ledger.Account{
	{ID: "bank", Kind: ledger.Asset, Currency: "EUR", Overdraft: true},
	{ID: "ada", Kind: ledger.Liability, Currency: "EUR"},
	{ID: "bob", Kind: ledger.Liability, Currency: "EUR"},
	{ID: "till", Kind: ledger.Asset, Currency: "EUR"},
	{ID: "yen", Kind: ledger.Liability, Currency: "JPY"},
}

func each(t *testing.T, fn func(t *testing.T, b *bank)) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		if err := db.Migrate(t.Context(), sqldb.Core(), ledger.Migrations()); err != nil {
			t.Fatal(err)
		}
		b := &bank{T: t, db: db}
		b.write(func(ctx context.Context, tx *sqldb.Tx) error { return ledger.Open(ctx, tx, accounts...) })
		fn(t, b)
		b.check()
	})
}

type bank struct {
	*testing.T
	db *sqldb.DB
}

func (b *bank) write(fn func(context.Context, *sqldb.Tx) error) {
	b.Helper()
	if err := b.db.Write(b.Context(), fn); err != nil {
		b.Fatal(err)
	}
}

func (b *bank) apply(ops ...ledger.Op) (out []ledger.Outcome) {
	b.Helper()
	b.write(func(ctx context.Context, tx *sqldb.Tx) (err error) {
		out, err = ledger.Apply(ctx, tx, ops...)
		return err
	})
	return out
}

// does applies one operation and demands this outcome.
func (b *bank) does(op ledger.Op, want error) {
	b.Helper()
	if got := b.apply(op)[0].Err; !errors.Is(got, want) || (want == nil && got != nil) {
		b.Errorf("%T %+v: %v, want %v", op, op, got, want)
	}
}

func (b *bank) balance(account string) (x ledger.Balances) {
	b.Helper()
	err := b.db.Read(b.Context(), func(ctx context.Context, tx *sqldb.Tx) (err error) {
		x, err = ledger.Balance(ctx, tx, account)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return x
}

func (b *bank) check() {
	b.Helper()
	r, err := ledger.Check(b.Context(), b.db, 0)
	if err != nil || !r.OK() {
		b.Errorf("check: %v %v", r.Findings, err)
	}
}

func fund(id, to string, amount int64) ledger.Transfer {
	return ledger.Transfer{ID: id, Debit: "bank", Credit: to, Amount: amount, Currency: "EUR"}
}

func pay(id, from, to string, amount int64) ledger.Transfer {
	return ledger.Transfer{ID: id, Debit: from, Credit: to, Amount: amount, Currency: "EUR"}
}

func held(t ledger.Transfer) ledger.Transfer {
	t.Pending = true
	return t
}

func TestTransfersAndTheirOutcomes(t *testing.T) {
	each(t, func(t *testing.T, b *bank) {
		b.does(fund("f", "ada", 100), nil)
		for _, c := range []struct {
			name string
			op   ledger.Op
			want error
		}{
			{"more than there is", pay("t1", "ada", "bob", 101), ledger.ErrInsufficient},
			{"all that there is", pay("t1", "ada", "bob", 100), nil},
			{"again: the id is done", pay("t1", "ada", "bob", 100), nil},
			{"the id with another amount", pay("t1", "ada", "bob", 99), ledger.ErrConflict},
			{"nothing", pay("t2", "bob", "ada", 0), ledger.ErrInvalid},
			{"less than nothing", pay("t2", "bob", "ada", -1), ledger.ErrInvalid},
			{"beyond 2^53", fund("t2", "bob", ledger.MaxAmount+1), ledger.ErrInvalid},
			{"an id that is no text", pay("t\xff", "bob", "ada", 1), ledger.ErrInvalid},
			{"an account that is no text", pay("t2", "bob\x00", "ada", 1), ledger.ErrInvalid},
			{"to itself", pay("t2", "bob", "bob", 1), ledger.ErrInvalid},
			{"nobody", pay("t2", "bob", "eve", 1), ledger.ErrNotFound},
			{"another currency", pay("t2", "bob", "yen", 1), ledger.ErrCurrency},
			{"no id", pay("", "bob", "ada", 1), ledger.ErrInvalid},
			{"a long id", pay(strings.Repeat("x", 201), "bob", "ada", 1), ledger.ErrInvalid},
			{"expiry of what is not pending", ledger.Transfer{ID: "t2", Debit: "bob", Credit: "ada", Amount: 1, Currency: "EUR", ExpiresAt: 1}, ledger.ErrInvalid},
			{"post of what was posted", ledger.Post{ID: "p", Transfer: "t1"}, ledger.ErrState},
			{"void of what was posted", ledger.Void{ID: "v", Transfer: "t1"}, ledger.ErrState},
			{"void of nothing", ledger.Void{ID: "v", Transfer: "zz"}, ledger.ErrNotFound},
			{"refund of more", ledger.Refund{ID: "r", Transfer: "t1", Amount: 101}, ledger.ErrState},
			{"refund of a part", ledger.Refund{ID: "r", Transfer: "t1", Amount: 40}, nil},
			{"the same refund", ledger.Refund{ID: "r", Transfer: "t1", Amount: 40}, nil},
			{"its id for another amount", ledger.Refund{ID: "r", Transfer: "t1", Amount: 41}, ledger.ErrConflict},
			{"refund of more than is left", ledger.Refund{ID: "r2", Transfer: "t1", Amount: 61}, ledger.ErrState},
			{"refund of the rest", ledger.Refund{ID: "r2", Transfer: "t1"}, nil},
			{"refund of what is back", ledger.Refund{ID: "r3", Transfer: "t1"}, ledger.ErrState},
		} {
			t.Run(c.name, func(t *testing.T) { (&bank{T: t, db: b.db}).does(c.op, c.want) })
		}
		if a := b.balance("ada"); a.PostedCredits-a.PostedDebits != 100 {
			t.Errorf("ada has %+v", a)
		}
	})
}

func TestPending(t *testing.T) {
	each(t, func(t *testing.T, b *bank) {
		b.does(fund("f", "ada", 100), nil)
		b.does(held(pay("h1", "ada", "bob", 70)), nil)
		b.does(held(pay("h2", "ada", "bob", 40)), ledger.ErrInsufficient) // what is held counts
		b.does(ledger.Refund{ID: "r", Transfer: "h1"}, ledger.ErrState)
		b.does(ledger.Post{ID: "p1", Transfer: "h1", Amount: 71}, ledger.ErrState)
		b.does(ledger.Post{ID: "p1", Transfer: "h1", Amount: 50}, nil)
		b.does(ledger.Post{ID: "p1", Transfer: "h1", Amount: 50}, nil)
		b.does(ledger.Post{ID: "p2", Transfer: "h1", Amount: 20}, ledger.ErrState) // once
		if got, want := b.balance("ada"), (ledger.Balances{PostedDebits: 50, PostedCredits: 100}); got != want {
			t.Errorf("ada: %+v", got)
		}
		b.does(held(pay("h3", "ada", "bob", 50)), nil) // the rest was released
		b.does(ledger.Void{ID: "v", Transfer: "h3"}, nil)
		b.does(ledger.Void{ID: "v", Transfer: "h3"}, nil)
		b.does(ledger.Post{ID: "p3", Transfer: "h3"}, ledger.ErrState)
		if got, want := b.balance("bob"), (ledger.Balances{PostedCredits: 50}); got != want {
			t.Errorf("bob: %+v", got)
		}
	})
}

func TestExpiry(t *testing.T) {
	each(t, func(t *testing.T, b *bank) {
		b.does(fund("f", "ada", 100), nil)
		past := held(pay("past", "ada", "bob", 30))
		past.ExpiresAt = time.Now().Add(-time.Second).UnixMicro()
		future := held(pay("future", "ada", "bob", 30))
		future.ExpiresAt = time.Now().Add(time.Hour).UnixMicro()
		b.apply(past, future, held(pay("never", "ada", "bob", 30)))
		if r, err := ledger.Check(t.Context(), b.db, 0); err != nil || len(r.Findings) != 1 {
			t.Errorf("check does not see what is pending past its expiry: %v %v", r, err)
		}
		b.does(ledger.Post{ID: "p", Transfer: "past"}, ledger.ErrState)
		for _, want := range []int{1, 0} {
			b.write(func(ctx context.Context, tx *sqldb.Tx) error {
				n, err := ledger.Expire(ctx, tx, 10)
				if n != want {
					t.Errorf("%d expired, want %d", n, want)
				}
				return err
			})
		}
		if got := b.balance("ada").PendingDebits; got != 60 {
			t.Errorf("%d pending", got)
		}
	})
}

// Several operations in one Apply see each other, and one that is refused leaves the rest.
func TestApplyDecidesEachForItself(t *testing.T) {
	each(t, func(t *testing.T, b *bank) {
		out := b.apply(
			fund("f", "ada", 100),
			held(pay("h", "ada", "bob", 80)),
			pay("no", "ada", "bob", 30),
			ledger.Post{ID: "p", Transfer: "h", Amount: 60},
			pay("yes", "ada", "bob", 30),
			ledger.Refund{ID: "r", Transfer: "yes", Amount: 10},
		)
		for i, want := range []error{nil, nil, ledger.ErrInsufficient, nil, nil, nil} {
			if !errors.Is(out[i].Err, want) {
				t.Errorf("operation %d: %v, want %v", i, out[i].Err, want)
			}
		}
		if a := b.balance("bob"); a.PostedCredits-a.PostedDebits != 80 {
			t.Errorf("bob: %+v", a)
		}
	})
}

func TestOpenIsIdempotent(t *testing.T) {
	each(t, func(t *testing.T, b *bank) {
		for _, c := range []struct {
			account ledger.Account
			want    error
		}{
			{accounts[1], nil},
			{ledger.Account{ID: "ada", Kind: ledger.Liability, Currency: "EUR", Overdraft: true}, ledger.ErrConflict},
			{ledger.Account{ID: "ada", Kind: ledger.Asset, Currency: "EUR"}, ledger.ErrConflict},
			{ledger.Account{ID: "x", Kind: ledger.Asset, Currency: "EURO"}, ledger.ErrInvalid},
			{ledger.Account{ID: "x", Kind: "equity", Currency: "EUR"}, ledger.ErrInvalid},
			{ledger.Account{Kind: ledger.Asset, Currency: "EUR"}, ledger.ErrInvalid},
		} {
			err := b.db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error { return ledger.Open(ctx, tx, c.account) })
			if !errors.Is(err, c.want) {
				t.Errorf("%+v: %v, want %v", c.account, err, c.want)
			}
		}
	})
}

// The constraints hold against a program that goes past the code.
func TestNet(t *testing.T) {
	each(t, func(t *testing.T, b *bank) {
		b.does(fund("f", "ada", 100), nil)
		for name, query := range map[string]string{
			"overdraw":            `UPDATE ledger_accounts SET posted_debits = 101 WHERE id = 'ada'`,
			"overdraw by pending": `UPDATE ledger_accounts SET pending_debits = 101 WHERE id = 'ada'`,
			"overdraw an asset":   `UPDATE ledger_accounts SET posted_credits = 1 WHERE id = 'till'`,
			"negative sum":        `UPDATE ledger_accounts SET pending_credits = -1 WHERE id = 'ada'`,
			"rewind":              `UPDATE ledger_transfers SET state = 'pending', posted = 0 WHERE id = 'f'`,
			"void what is posted": `UPDATE ledger_transfers SET state = 'voided', posted = 0 WHERE id = 'f'`,
			"change an amount":    `UPDATE ledger_transfers SET amount = 1000 WHERE id = 'f'`,
			"refund too much":     `UPDATE ledger_transfers SET refunded = 101 WHERE id = 'f'`,
			"delete a transfer":   `DELETE FROM ledger_transfers WHERE id = 'f'`,
			"change an entry":     `UPDATE ledger_entries SET amount = 1 WHERE transfer_id = 'f'`,
			"delete an entry":     `DELETE FROM ledger_entries WHERE transfer_id = 'f'`,
			"post twice": `INSERT INTO ledger_entries (transfer_id, step_id, account_id, amount, created_at)
				VALUES ('f', 'f', 'ada', -100, 0)`,
		} {
			err := b.db.Write(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
				_, err := tx.Exec(ctx, query)
				return err
			})
			if _, refused := sqldb.Constraint(err); !refused {
				t.Errorf("%s: %v, want a constraint", name, err)
			}
		}
	})
}

// Check finds what is wrong; without that its silence means nothing.
func TestCheckFinds(t *testing.T) {
	for name, query := range map[string]string{
		"balance":         `UPDATE ledger_accounts SET posted_credits = posted_credits + 1 WHERE id = 'ada'`,
		"pending":         `UPDATE ledger_accounts SET pending_credits = 1 WHERE id = 'ada'`,
		"single entry":    `INSERT INTO ledger_entries (transfer_id, step_id, account_id, amount, created_at) VALUES ('f', 'x', 'bob', 5, 0)`,
		"transfer posted": `UPDATE ledger_transfers SET refunded = 1 WHERE id = 'f'`,
	} {
		t.Run(name, func(t *testing.T) {
			sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
				b := &bank{T: t, db: db}
				if err := db.Migrate(t.Context(), sqldb.Core(), ledger.Migrations()); err != nil {
					t.Fatal(err)
				}
				b.write(func(ctx context.Context, tx *sqldb.Tx) error { return ledger.Open(ctx, tx, accounts...) })
				b.does(fund("f", "ada", 100), nil)
				b.write(func(ctx context.Context, tx *sqldb.Tx) error { _, err := tx.Exec(ctx, query); return err })
				if r, err := ledger.Check(t.Context(), db, 0); err != nil || r.OK() {
					t.Errorf("not found: %v %v", r, err)
				}
			})
		})
	}
}

// Money moves in both directions at once: no deadlock escapes, nothing is lost or made.
func TestConcurrentTransfers(t *testing.T) {
	each(t, func(t *testing.T, b *bank) {
		const workers, rounds = 16, 12
		b.apply(fund("fa", "ada", 500), fund("fb", "bob", 500))
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(1, uint64(w)))
				for i := range rounds {
					from, to := "ada", "bob"
					if rng.IntN(2) == 0 {
						from, to = to, from
					}
					op := pay(fmt.Sprintf("t-%d-%d", w, i), from, to, 1+rng.Int64N(200))
					err := b.db.Write(context.Background(), func(ctx context.Context, tx *sqldb.Tx) error {
						_, err := ledger.Apply(ctx, tx, op)
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		ada, bob := b.balance("ada"), b.balance("bob")
		if sum := ada.PostedCredits - ada.PostedDebits + bob.PostedCredits - bob.PostedDebits; sum != 1000 {
			t.Errorf("the sum moved to %d", sum)
		}
	})
}

// One id from many callers at once has one effect.
func TestConcurrentRepeats(t *testing.T) {
	each(t, func(t *testing.T, b *bank) {
		b.does(fund("f", "ada", 100), nil)
		b.does(held(pay("h", "ada", "bob", 10)), nil)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				err := b.db.Write(context.Background(), func(ctx context.Context, tx *sqldb.Tx) error {
					out, err := ledger.Apply(ctx, tx, pay("t", "ada", "bob", 10), ledger.Post{ID: "p", Transfer: "h"},
						ledger.Refund{ID: "r", Transfer: "f", Amount: 5})
					for _, o := range out {
						if o.Err != nil {
							t.Error(o.Err)
						}
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got, want := b.balance("bob"), (ledger.Balances{PostedCredits: 20}); got != want {
			t.Errorf("bob: %+v", got)
		}
		if got := b.balance("ada").PostedDebits; got != 25 {
			t.Errorf("ada's debits: %d", got)
		}
	})
}

func TestCurrency(t *testing.T) {
	for code, want := range map[string]int{"EUR": 2, "JPY": 0, "KWD": 3, "CLF": 4} {
		if got, ok := ledger.Currency(code); !ok || got != want {
			t.Errorf("%s: %d %v", code, got, ok)
		}
	}
	for _, code := range []string{"", "eur", "EURO", "XXX", "XAU"} {
		if _, ok := ledger.Currency(code); ok {
			t.Errorf("%q is taken for a currency", code)
		}
	}
}

// What an account has turned over is bounded, but not by what one transfer may have: money that
// goes to and fro for years does not end it.
func TestTurnover(t *testing.T) {
	each(t, func(t *testing.T, b *bank) {
		const most = ledger.MaxTurnover / ledger.MaxAmount
		for i := range most {
			b.does(fund(fmt.Sprint("f", i), "ada", ledger.MaxAmount), nil)
		}
		b.does(fund("one more", "ada", 1), ledger.ErrInvalid)
		b.does(pay("all", "ada", "bob", ledger.MaxAmount), nil)
	})
}
