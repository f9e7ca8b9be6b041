// Package drill is a storm and the judgement after it. Sale starts servers as processes of
// their own and a simulated payment provider, lets buyers loose on a sale, kills servers while
// it goes on, and when the dust has settled compares what each client was told with the rows,
// the store and the provider's own log.
//
// Promised: a report that says pass only when every check held and the storm that was asked
// for did happen. The package imports none of what it judges: it speaks HTTP, reads SQL through
// the drivers, Redis through a client, and the files of a file: store after the server that
// held them has stopped. Children end with the drill, on Linux also when it is killed.
//
// Not promised: that a pass proves anything about faults that were not asked for.
//
// Retries: each run has a place of its own (a directory, a key prefix, a schema) and clears it
// away, except that after a failure the directory stays, with the evidence. Behaviors, faults
// and the moments of kills are dealt from shuffled decks; the seed that is printed deals the
// same cards again, though not to the same requests at the same instants.
//
// Failover, Lock and Limit do the same to nodes, locks and limits; packages holder and caller have the programs that
// Lock and Limit let loose.
//
// Cost: both cores for 10 to 90 seconds.
package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"time"
)

// SaleOptions of Sale. The zero value is a drill on the embedded engines.
type SaleOptions struct {
	Store    string    // store URL, or redis-server or valkey-server[?class=b], or nodes; default: file: in a temporary directory
	DB       string    // database URL, or postgres; default: SQLite in a temporary directory
	Buyers   int       // 1..100,000; default 400
	Stock    int       // units, 1..100,000; default 100
	Servers  int       // 1..16; more than one needs a store and a database that can be shared; default 1
	Faults   []string  // of Faults, each as often as it is given, or "none"; default kill-server
	Seed     uint64    // of all decks; 0: a random one
	Binary   string    // the program to run servers with; default: this one
	OwnDisk  string    // how the drill calls itself, in a mount namespace with a disk that can be filled: the one outside
	Progress io.Writer // a line for each phase and each second; nil: none
}

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Report is the verdict. Its JSON is one line.
type Report struct {
	Drill   string  `json:"drill"`
	Class   string  `json:"class"` // of the store: A, B or C
	Verdict string  `json:"verdict"`
	Seed    uint64  `json:"seed"`
	Checks  []Check `json:"checks"`
	Figures any     `json:"figures"`
	Kept    string  `json:"kept,omitempty"` // where the evidence of a failure lies
	// What the same storm did to something that is compared; it decides nothing.
	Against *Report `json:"against,omitempty"`
}

// The verdicts.
const (
	Pass = "pass"
	Fail = "fail"
)

// Passed says whether every check held.
func (r Report) Passed() bool { return r.Verdict == Pass }

// plan is what one run will do.
type plan struct {
	SaleOptions
	class    string
	own      owned
	faults   []fault
	perBuyer int           // the sale's limit
	hold     time.Duration // how long a unit is held
	storm    time.Duration // longest the storm may last
	parallel int           // requests on their way at once
	pause    time.Duration // mean time until a buyer who was told "sold out" asks again
	vanish   int           // most holds that vanish
	scouts   int           // buyers who ask beyond their limit while units are free
}

// maxSeed keeps seeds exact in every JSON reader.
const maxSeed = 1 << 53

func newPlan(o SaleOptions) (plan, error) {
	o.Buyers, o.Stock, o.Servers = orElse(o.Buyers, 400), orElse(o.Stock, 100), orElse(o.Servers, 1)
	if o.Faults == nil {
		o.Faults = []string{FaultKillServer}
	}
	if o.Seed == 0 {
		o.Seed = 1 + rand.Uint64N(maxSeed-1)
	}
	p := plan{SaleOptions: o, perBuyer: min(2, o.Stock)}
	switch {
	case o.Buyers < 1 || o.Buyers > 100_000:
		return p, fmt.Errorf("drill: %d buyers is not in 1..100000", o.Buyers)
	case o.Stock < 1 || o.Stock > 100_000:
		return p, fmt.Errorf("drill: a stock of %d is not in 1..100000", o.Stock)
	case o.Servers < 1 || o.Servers > 16:
		return p, fmt.Errorf("drill: %d servers is not in 1..16", o.Servers)
	}
	if err := p.addEngines(); err != nil {
		return p, err
	}
	if err := p.addFaults(); err != nil {
		return p, err
	}
	if strings.HasPrefix(o.Store, "mem:") && len(p.faults) > 0 {
		return p, errors.New("drill: mem: is gone with its server; give --fault none")
	}
	p.scale()
	return p, nil
}

// addEngines reads what the sale is to stand on.
func (p *plan) addEngines() (err error) {
	if p.own, err = ownedBy(p.Store, p.DB); err != nil {
		return err
	}
	if p.class, err = p.own.class(p.Store); err != nil {
		return err
	}
	switch {
	case p.DB != "" && !p.own.db && !isPostgres(p.DB) && !strings.HasPrefix(p.DB, "sqlite:"):
		return errors.New("drill: a database is sqlite:PATH, postgres://HOST, or postgres for one that the drill starts")
	case p.Servers > 1 && !p.own.shared(p.Store, p.DB):
		return errors.New("drill: several servers need a store and a database that they can share: " +
			"--store redis://HOST --db postgres://HOST, or --store redis-server (or nodes) --db postgres")
	}
	return nil
}

// scale fits times and shares to the size of the storm.
func (p *plan) scale() {
	// A server with thousands of payments before it needs longer for each.
	p.hold = min(max(2*time.Second+time.Duration(p.Stock)*10*time.Millisecond, 4*time.Second), 15*time.Second).Round(time.Second)
	p.storm = 4*p.hold + 20*time.Second + time.Duration(p.Stock)*20*time.Millisecond +
		time.Duration(p.ofEngines())*(down+2*recoverWithin)
	p.parallel = min(p.Buyers, 256)
	p.pause = max(400*time.Millisecond, time.Duration(p.Buyers)*500*time.Microsecond)
	p.vanish = max(1, p.Stock/10)
	if p.Stock >= 2*p.perBuyer {
		p.scouts = min(max(1, p.Stock/50), p.Buyers)
	}
}

func orElse(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

func isPostgres(db string) bool {
	return strings.HasPrefix(db, "postgres://") || strings.HasPrefix(db, "postgresql://")
}

func isRemote(store string) bool {
	return strings.HasPrefix(store, "redis://") || strings.HasPrefix(store, "rediss://") || strings.HasPrefix(store, "unix:") ||
		strings.HasPrefix(store, schemeNodes)
}

// storeClass is the class that the store's URL states.
func storeClass(raw string) (string, error) {
	switch {
	case raw == "" || strings.HasPrefix(raw, "file:") || strings.HasPrefix(raw, schemeNodes):
		return "A", nil
	case strings.HasPrefix(raw, "mem:"):
		return "C", nil
	case !isRemote(raw):
		return "", errors.New("drill: a store is mem:, file:DIR, unix:PATH, redis://…, rediss://HOST or holdfast://HOST,HOST; this drill also starts redis-server, valkey-server and nodes")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", errors.New("drill: the store's URL cannot be parsed") // it can hold a password
	}
	if strings.EqualFold(u.Query().Get("class"), "b") {
		return "B", nil
	}
	return "C", nil
}

// Sale runs the sale drill. An error means that there is no verdict: the options make no sense,
// an engine cannot be reached, or ctx is done.
func Sale(ctx context.Context, opts SaleOptions) (Report, error) {
	p, err := newPlan(opts)
	if err != nil {
		return Report{}, err
	}
	if p.Binary == "" {
		if p.Binary, err = os.Executable(); err != nil {
			return Report{}, fmt.Errorf("drill: %w", err)
		}
	}
	if p.fillsDisk() && p.OwnDisk == "" {
		return p.apart(ctx)
	}
	r := &run{plan: p, began: time.Now(), progress: &progress{out: p.Progress, began: time.Now()}}
	return r.sale(ctx)
}
