package drill

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// caller is the name of the drill's API key.
const caller = "drill"

const (
	price    = 4900
	currency = "EUR"
)

// rates of the simulated provider's faults, in 100 requests or authorizations.
var rates = map[string]int{
	"late": 4, "timeout": 3, "cut": 4, "duplicate": 3,
	"refuse_auth": 2, "refuse_capture": 2, "capture_at_once": 2,
}

// run is one drill.
type run struct {
	plan
	progress *progress
	began    time.Time
	place    *place
	store    harmed // that this run has started; nil: none
	marks    *marks // of such a store
	disk     *slowDisk
	db       *engine
	fleet    *fleet
	provider *child
	payments string // the provider's address
	client   *client
	record   *record
	saleID   string

	sendings  *deck[sending]
	behaviors *deck[behavior]
	wants     *deck[int]
	scouted   sync.WaitGroup // scouts that have asked beyond their limit
	vanished  atomic.Int64
	busy      atomic.Int64 // buyers with a hold in their hands
	buyers    []*buyer
	still     stillness
	stormed   time.Duration
	total     int // answers until the storm was over
	outages   []outage
	unclean   []string
}

func (r *run) sale(ctx context.Context) (report Report, err error) {
	r.shuffle()
	r.progress.say("sale drill: %d buyers, %d units, %d servers, %d faults, seed %d", r.Buyers, r.Stock, r.Servers, len(r.faults), r.Seed)
	n := newNursery()
	defer n.close()
	if r.place, err = newPlace(ctx, named(r.Store, r.own.store != ""), named(r.DB, r.own.db)); err != nil {
		return report, err
	}
	failed := false
	defer func() {
		// Also when ctx is done: what was made is taken away.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, r.place.clear(ctx, failed))
	}()
	if r.OwnDisk != "" {
		if err := ownDisk(r.place.disk(), r.OwnDisk); err != nil {
			return report, err
		}
		r.place.undo = append(r.place.undo, func(context.Context) error { return leaveDisk(r.place.disk()) })
	}
	engines := hired{owned: r.own, binary: r.Binary, servers: r.Servers, place: r.place, nursery: n, progress: r.progress}
	if err := engines.start(ctx); err != nil {
		return report, err
	}
	r.store, r.db = engines.storing, engines.database
	if slices.Contains(r.Faults, FaultSlowDisk) {
		if r.disk, err = newSlowDisk(); err != nil {
			return report, err
		}
		defer r.disk.close()
	}
	e, err := r.gather(ctx, n)
	if err != nil {
		return report, err
	}
	report = r.report(e)
	if failed = !report.Passed(); failed {
		report.Kept = r.place.dir
		err = keep(filepath.Join(r.place.dir, "evidence.json"), e)
	}
	r.progress.say("%s", report.Verdict)
	return report, err
}

// keep writes the evidence down, for whoever wants to know why.
func keep(file string, e *evidence) error {
	data, err := json.MarshalIndent(e, "", " ")
	if err == nil {
		err = os.WriteFile(file, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	return nil
}

// gather lets the storm happen and collects the evidence.
func (r *run) gather(ctx context.Context, n *nursery) (*evidence, error) {
	if err := r.start(ctx, n); err != nil {
		return nil, err
	}
	defer r.provider.kill()
	defer r.fleet.abandon()
	defer r.client.close()
	if err := r.createSale(ctx); err != nil {
		return nil, err
	}
	e := r.evidence()
	watched, marked := r.startWatching(ctx), r.startMarking(ctx)
	err := r.storm(ctx)
	marked()
	if err != nil {
		watched()
		return nil, err
	}
	for _, b := range r.buyers {
		e.Demand += b.demand()
	}
	r.drain(ctx)
	r.repeat(ctx)
	e.Streams = watched()
	if err := r.dealt(ctx, e); err != nil {
		return nil, err
	}
	r.progress.say("stopping the servers")
	e.Stopping = time.Now().UnixMicro()
	e.Exits = append(r.unclean, r.fleet.stop()...)
	if err := r.provider.stop(stopWithin); err != nil {
		return nil, fmt.Errorf("drill: the simulated provider: %w", err)
	}
	e.Outages = r.outages
	r.record.into(e)
	e.Counts["servers"], e.Counts["buyers"], e.Counts["scouts"] = r.Servers, r.Buyers, r.scouts
	r.progress.say("looking from outside")
	return e, r.look(ctx, e)
}

// startMarking has the drill write to a store of its own, until the returned function is called.
func (r *run) startMarking(ctx context.Context) (stop func()) {
	if r.store == nil {
		return func() {}
	}
	r.marks = &marks{dial: r.store.dial, promised: r.class != "C"}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { r.marks.write(ctx) })
	return func() { cancel(); wg.Wait() }
}

func (r *run) evidence() *evidence {
	want := map[string]int{}
	for _, f := range r.faults {
		want[f.kind]++
	}
	return &evidence{
		Stock: int64(r.Stock), PerBuyer: int64(r.perBuyer), HoldTime: r.hold, Price: price, Currency: currency,
		SaleID: r.saleID, Caller: caller, FaultsWant: want, Rates: rates,
	}
}

// look reads what the servers and the provider have left.
func (r *run) look(ctx context.Context, e *evidence) error {
	if err := readRows(ctx, r.place.db, e); err != nil {
		return err
	}
	if err := readPermits(ctx, r.place.store, e); err != nil {
		return err
	}
	if r.marks != nil {
		var err error
		if e.Marks, err = r.marks.read(); err != nil {
			return err
		}
	}
	log, err := os.ReadFile(r.providerLog())
	if err != nil {
		return fmt.Errorf("drill: the provider's log: %w", err)
	}
	for line := range bytes.Lines(log) {
		var l providerLine
		if err := json.Unmarshal(line, &l); err != nil {
			return fmt.Errorf("drill: the provider's log: %w", err)
		}
		e.Provider = append(e.Provider, l)
	}
	return nil
}

func (r *run) providerLog() string { return filepath.Join(r.place.dir, "provider.jsonl") }

// start begins the provider and the servers, and makes the client.
func (r *run) start(ctx context.Context, n *nursery) (err error) {
	r.progress.say("starting the simulated payment provider and %d servers", r.Servers)
	faults, err := json.Marshal(rates)
	if err != nil {
		return err
	}
	ready := filepath.Join(r.place.dir, "ready-provider")
	r.provider, err = n.start(r.Binary, filepath.Join(r.place.dir, "provider.log"),
		"provider", "--listen", "127.0.0.1:0", "--log", r.providerLog(), "--seed", fmt.Sprint(r.Seed),
		"--faults", string(faults), "--ready-file", ready)
	if err != nil {
		return err
	}
	if r.payments, err = r.provider.ready(ready, readyWithin); err == nil {
		err = r.startServers(ctx, n)
	}
	if err != nil {
		r.provider.kill()
	}
	return err
}

func (r *run) startServers(ctx context.Context, n *nursery) error {
	secret := "drill-" + rand.Text()
	sum := sha256.Sum256([]byte(secret))
	config := filepath.Join(r.place.dir, "config.yaml")
	keys := fmt.Sprintf("keys:\n  - name: %s\n    sha256: %s\n", caller, hex.EncodeToString(sum[:]))
	if err := os.WriteFile(config, []byte(keys), 0o600); err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	if r.disk != nil {
		n = r.disk.nursery
	}
	r.fleet = &fleet{nursery: n, dir: r.place.dir, bin: r.Binary, args: []string{
		"--store", r.place.store, "--db", r.place.db, "--config", config,
		"--provider", "http://" + r.payments, "--provider-timeout", "1s",
	}}
	if err := r.fleet.start(ctx, r.Servers); err != nil {
		r.fleet.abandon()
		return err
	}
	r.record = newRecord()
	r.client = newClient(r.fleet.pick, secret, r.parallel, r.record)
	return nil
}

// saleTold is a sale as the API shows it.
type saleTold struct {
	Stock int64 `json:"stock"`
	Held  int64 `json:"held"`
	Sold  int64 `json:"sold"`
}

func (r *run) createSale(ctx context.Context) error {
	r.saleID = r.place.id
	body, err := json.Marshal(map[string]any{
		"id": r.saleID, "name": "Drill", "stock": r.Stock, "price": price, "currency": currency,
		"per_buyer": r.perBuyer, "hold_seconds": int(r.hold / time.Second),
	})
	if err != nil {
		return err
	}
	a := r.client.once(ctx, http.MethodPost, "/v1/sales", "", body, false)
	if a.err != nil {
		return fmt.Errorf("drill: creating the sale: %w", a.err)
	}
	if a.status != http.StatusCreated {
		return fmt.Errorf("drill: creating the sale: %d %s", a.status, a.body)
	}
	return nil
}

// dealt asks the provider how many of each fault it has dealt.
func (r *run) dealt(ctx context.Context, e *evidence) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.payments+"/v1/faults", nil)
	if err != nil {
		return err
	}
	resp, err := r.client.http.Do(req)
	if err != nil {
		return fmt.Errorf("drill: the simulated provider: %w", err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&e.Dealt); err != nil {
		return fmt.Errorf("drill: the simulated provider: %w", err)
	}
	return nil
}

func (r *run) report(e *evidence) Report {
	report := Report{Drill: "sale", Class: r.class, Seed: r.Seed}
	report.Checks, report.Verdict = judge(e)
	report.Figures = r.figures(e)
	return report
}
