package flashsale

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/sqldb"
)

// Bounds of a sale.
const (
	MaxID    = 64
	MaxName  = 200
	MaxBuyer = 128
	MaxStock = 1_000_000
	MaxPrice = 1_000_000_000_000 // minor units
	MaxHold  = time.Hour
)

const defaultHold = 2 * time.Minute

// NewSale are a sale's terms. They never change.
type NewSale struct {
	ID          string // letters, digits, - and _; made when empty
	Name        string
	Stock       int64     // units, 1..1,000,000
	Price       int64     // minor units, 1..10^12
	Currency    string    // ISO 4217
	PerBuyer    int64     // units one buyer may have; 1..Stock, default 1
	OpensAt     time.Time // default: now
	HoldSeconds int64     // life of a hold; 1..3600, default 120
}

// Sale is a sale as it is now.
type Sale struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Currency    string    `json:"currency"`
	Price       int64     `json:"price"`
	Stock       int64     `json:"stock"`
	Held        int64     `json:"held"`
	Sold        int64     `json:"sold"`
	PerBuyer    int64     `json:"per_buyer"`
	HoldSeconds int64     `json:"hold_seconds"`
	OpensAt     time.Time `json:"opens_at"`
	CreatedAt   time.Time `json:"created_at"`
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func (n *NewSale) complete() error {
	if n.ID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("flashsale: %w", err)
		}
		n.ID = id.String()
	}
	if n.PerBuyer == 0 {
		n.PerBuyer = 1
	}
	if n.HoldSeconds == 0 {
		n.HoldSeconds = int64(defaultHold / time.Second)
	}
	_, known := ledger.Currency(n.Currency)
	switch {
	case !idPattern.MatchString(n.ID):
		return &InvalidError{"id", "must be 1..64 letters, digits, - or _"}
	case !text(n.Name, MaxName):
		return &InvalidError{"name", fmt.Sprintf("must be 1..%d bytes of printable text", MaxName)}
	case n.Stock < 1 || n.Stock > MaxStock:
		return &InvalidError{"stock", fmt.Sprintf("must be 1..%d", MaxStock)}
	case n.Price < 1 || n.Price > MaxPrice:
		return &InvalidError{"price", fmt.Sprintf("must be 1..%d minor units", MaxPrice)}
	case !known:
		return &InvalidError{"currency", "is no ISO 4217 code"}
	case n.PerBuyer < 1 || n.PerBuyer > n.Stock:
		return &InvalidError{"per_buyer", "must be 1..stock"}
	case n.HoldSeconds < 1 || n.HoldSeconds > int64(MaxHold/time.Second):
		return &InvalidError{"hold_seconds", "must be 1..3600"}
	case !n.OpensAt.IsZero() && (n.OpensAt.Year() < 1970 || n.OpensAt.Year() > 2200):
		return &InvalidError{"opens_at", "is not in this age"}
	}
	return nil
}

// text says whether s is printable, not empty, and not longer than most bytes.
func text(s string, most int) bool {
	if s == "" || len(s) > most || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// Create opens a sale. Repeating it with the same id and terms returns the sale as it is.
// Errors: *InvalidError, ErrExists, and those of sqldb.
func (s *Sales) Create(ctx context.Context, n NewSale) (sale Sale, err error) {
	atOnce := n.OpensAt.IsZero()
	if err := n.complete(); err != nil {
		return Sale{}, err
	}
	opens := int64(0)
	if !atOnce {
		opens = n.OpensAt.UnixMicro()
	}
	err = s.db.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		made, err := tx.Exec(ctx, `
			INSERT INTO sales (id, name, currency, price, stock, per_buyer, opens_at, hold_us, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $9 THEN holdfast_now() ELSE $7 END, $8, holdfast_now())
			ON CONFLICT (id) DO NOTHING`,
			n.ID, n.Name, n.Currency, n.Price, n.Stock, n.PerBuyer, opens, n.HoldSeconds*1e6, atOnce)
		if err != nil {
			return err
		}
		if sale, err = findSale(ctx, tx, n.ID); err != nil {
			return err
		}
		if made == 1 {
			return publishStock(ctx, tx, n.ID, "created", 0)
		}
		return sale.same(n, atOnce)
	})
	return sale, err
}

// same compares the terms of a sale that exists with those asked for.
func (x Sale) same(n NewSale, atOnce bool) error {
	if x.Name != n.Name || x.Currency != n.Currency || x.Price != n.Price || x.Stock != n.Stock ||
		x.PerBuyer != n.PerBuyer || x.HoldSeconds != n.HoldSeconds ||
		(!atOnce && x.OpensAt.UnixMicro() != n.OpensAt.UnixMicro()) {
		return ErrExists
	}
	return nil
}

const saleColumns = `id, name, currency, price, stock, held, sold, per_buyer, hold_us, opens_at, created_at`

type scanner interface{ Scan(...any) error }

func scanSale(row scanner) (Sale, error) {
	var x Sale
	var holdUS, opens, created int64
	err := row.Scan(&x.ID, &x.Name, &x.Currency, &x.Price, &x.Stock, &x.Held, &x.Sold, &x.PerBuyer, &holdUS, &opens, &created)
	x.HoldSeconds = holdUS / 1e6
	x.OpensAt, x.CreatedAt = time.UnixMicro(opens).UTC(), time.UnixMicro(created).UTC()
	if errors.Is(err, sql.ErrNoRows) {
		return x, ErrNotFound
	}
	return x, err
}

func findSale(ctx context.Context, tx *sqldb.Tx, id string) (Sale, error) {
	return scanSale(tx.Row(ctx, `SELECT `+saleColumns+` FROM sales WHERE id = $1`, id))
}

// Sale returns a sale as it is now. Errors: ErrNotFound, and those of sqldb.
func (s *Sales) Sale(ctx context.Context, id string) (sale Sale, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		sale, err = findSale(ctx, tx, id)
		return err
	})
	return sale, err
}

// Snapshot returns a sale and the version that its events count. Errors: as Sale.
func (s *Sales) Snapshot(ctx context.Context, id string) (sale Sale, version int64, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		if sale, err = findSale(ctx, tx, id); err != nil {
			return err
		}
		return tx.Row(ctx, `SELECT version FROM sales WHERE id = $1`, id).Scan(&version)
	})
	return sale, version, err
}

// List returns the newest sales, up to limit (1..100).
func (s *Sales) List(ctx context.Context, limit int) (all []Sale, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		all = []Sale{}
		rows, err := tx.Query(ctx, `SELECT `+saleColumns+` FROM sales ORDER BY created_at DESC, id LIMIT $1`, min(max(limit, 1), 100))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			x, err := scanSale(rows)
			if err != nil {
				return err
			}
			all = append(all, x)
		}
		return rows.Err()
	})
	return all, err
}

// Topic is the outbox topic of a sale's events. Kind "stock" carries a StockEvent.
func Topic(sale string) string { return "sale:" + sale }

// StockEvent tells a sale's numbers after a change. Versions of one sale grow in the order of
// the commits.
type StockEvent struct {
	Stock   int64  `json:"stock"`
	Held    int64  `json:"held"`
	Sold    int64  `json:"sold"`
	Version int64  `json:"version"`
	What    string `json:"what"` // created, held, released, expired, confirmed, cancelled
	Units   int64  `json:"units"`
}

// publishStock writes the event of a change to a sale whose row this transaction has locked.
func publishStock(ctx context.Context, tx *sqldb.Tx, sale, what string, units int64) error {
	e := StockEvent{What: what, Units: units}
	err := tx.Row(ctx, `SELECT stock, held, sold, version FROM sales WHERE id = $1`, sale).
		Scan(&e.Stock, &e.Held, &e.Sold, &e.Version)
	if err != nil {
		return err
	}
	row, err := e.row(sale)
	if err != nil {
		return err
	}
	return tx.PublishAll(ctx, row)
}

// row is the event as the outbox takes it.
func (e StockEvent) row(sale string) (sqldb.Event, error) {
	payload, err := json.Marshal(e)
	return sqldb.Event{Topic: Topic(sale), Kind: "stock", Payload: payload}, err
}

// terms is what a process keeps of a sale: what never changes, the mark, and what it counted.
type terms struct {
	Sale
	mark     soldOutMark
	mu       sync.Mutex
	building *building // nil when this process builds no gate
	givenUp  string    // generation of a gate that this process began to build, and did not end
	attempts atomic.Int64
	refused  atomic.Int64
	watched  watched
}

func (s *Sales) terms(ctx context.Context, id string) (*terms, error) {
	if t, ok := s.known.Load(id); ok {
		return t.(*terms), nil
	}
	sale, err := s.Sale(ctx, id)
	if err != nil {
		return nil, err
	}
	t, _ := s.known.LoadOrStore(id, &terms{Sale: sale})
	return t.(*terms), nil
}

// Activity is how often this process was asked for a unit of a sale, and refused one.
type Activity struct {
	Attempts int64 `json:"attempts"`
	Refused  int64 `json:"refused"`
}

// Activity returns what this process counted since the sale was last idle for an hour. Errors: ErrNotFound, and those of sqldb.
func (s *Sales) Activity(ctx context.Context, id string) (Activity, error) {
	t, err := s.terms(ctx, id)
	if err != nil {
		return Activity{}, err
	}
	return Activity{t.attempts.Load(), t.refused.Load()}, nil
}
