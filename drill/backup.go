package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// BackupOptions of Backup. The zero value is a drill that takes some seconds.
type BackupOptions struct {
	Rounds   int       // backups, 1..100; default 4
	Rate     int       // requests a second, 1..10,000; default 300
	Seed     uint64    // of the moments; 0: a random one
	Binary   string    // the program to judge; default: this one
	Progress io.Writer // a line for each phase; nil: none
}

// BackupFigures are measured by the clients; they judge nothing.
type BackupFigures struct {
	Seconds  float64 `json:"seconds"`
	Backups  int     `json:"backups"`
	Rate     int     `json:"rate_per_s"`
	Answered int     `json:"answered"`
	Restored []int   `json:"restored_holds"` // of each backup
	Worst    float64 `json:"worst_ms"`       // of all answers, from the moment a request was due
}

// Backup runs the backup drill: backups are made of a server on file: and SQLite while clients
// ask for holds at a fixed rate; the server is killed; every backup is restored, looked at from
// outside, and the last one served from. An error means that there is no verdict.
func Backup(ctx context.Context, o BackupOptions) (Report, error) {
	o.Rounds, o.Rate = orElse(o.Rounds, 4), orElse(o.Rate, 300)
	if o.Seed == 0 {
		o.Seed = 1 + rand.Uint64N(maxSeed-1)
	}
	switch {
	case o.Rounds < 1 || o.Rounds > 100:
		return Report{}, fmt.Errorf("drill: %d rounds is not in 1..100", o.Rounds)
	case o.Rate < 1 || o.Rate > 10_000:
		return Report{}, fmt.Errorf("drill: a rate of %d is not in 1..10000", o.Rate)
	}
	if o.Binary == "" {
		var err error
		if o.Binary, err = os.Executable(); err != nil {
			return Report{}, fmt.Errorf("drill: %w", err)
		}
	}
	b := &backups{
		BackupOptions: o, progress: &progress{out: o.Progress, began: time.Now()}, began: time.Now(),
		rng: rand.New(rand.NewPCG(o.Seed, 0)),
	}
	report := Report{Drill: "backup", Class: "A", Seed: o.Seed}
	return report, b.run(ctx, &report)
}

// backups is one drill.
type backups struct {
	BackupOptions
	progress *progress
	began    time.Time
	rng      *rand.Rand
	place    *place
	nursery  *nursery

	load   *load
	copies []*copied
	broken []string // requests that failed before the server was killed
	found  repeats
}

// copied is a backup, and what is found in it.
type copied struct {
	dir    string
	before map[string]string // key → hold, answered before it was asked for
	during int64             // requests sent while it was made

	store, db string            // where it was restored
	holds     map[string]string // hold → buyer, who is its key
	rows      evidence
}

// repeats is what the restored server answered.
type repeats struct {
	same, asked int
	wrong       findings
}

func (b *backups) run(ctx context.Context, report *Report) (err error) {
	b.progress.say("backup drill: %d backups at %d requests a second, seed %d", b.Rounds, b.Rate, b.Seed)
	if b.place, err = newPlace(ctx, "", ""); err != nil {
		return err
	}
	failed := false
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, b.place.clear(ctx, failed))
	}()
	b.nursery = newNursery()
	defer b.nursery.close()
	if err := b.storm(ctx); err != nil {
		return err
	}
	for i, c := range b.copies {
		b.progress.say("restoring backup %d of %d", i+1, len(b.copies))
		if err := b.restore(ctx, c, i); err != nil {
			return err
		}
	}
	if err := b.serveAgain(ctx); err != nil {
		return err
	}
	report.Checks, report.Verdict = b.judge()
	report.Figures = b.figures()
	if failed = !report.Passed(); failed {
		report.Kept = b.place.dir
	}
	b.progress.say("%s", report.Verdict)
	return nil
}

// server starts one and returns its URL.
func (b *backups) server(name, store, db string) (*child, string, error) {
	ready := filepath.Join(b.place.dir, "ready-"+name)
	c, err := b.nursery.start(b.Binary, filepath.Join(b.place.dir, name+".log"), "serve", "--log-level", "warn",
		"--listen", "127.0.0.1:0", "--ready-file", ready, "--store", store, "--db", db,
		"--backup-dir", filepath.Join(b.place.dir, "backups"), "--provider", "http://127.0.0.1:1") // nobody pays
	if err != nil {
		return nil, "", err
	}
	address, err := c.ready(ready, readyWithin)
	if err != nil {
		c.kill()
		return nil, "", err
	}
	return c, "http://" + address, nil
}

// storm makes backups while the load goes on, and kills the server in the middle of it.
func (b *backups) storm(ctx context.Context) error {
	server, url, err := b.server("server", b.place.store, b.place.db)
	if err != nil {
		return err
	}
	defer server.kill()
	b.load = newLoad(url, b.place.id, b.Rate)
	if err := b.load.createSale(ctx); err != nil {
		return err
	}
	b.load.start(ctx)
	defer b.load.end()
	for i := range b.Rounds {
		pause := 300*time.Millisecond + time.Duration(b.rng.Int64N(int64(300*time.Millisecond)))
		if !wait(ctx, pause) {
			return ctx.Err()
		}
		b.progress.say("backup %d of %d; %d answers", i+1, b.Rounds, b.load.answered.Load())
		c := &copied{before: b.load.answers()}
		sent := b.load.sent.Load()
		out, err := b.command(ctx, "backup", "--server", url)
		if err != nil {
			return err
		}
		c.dir, c.during = strings.TrimSpace(out), b.load.sent.Load()-sent
		b.copies = append(b.copies, c)
	}
	wait(ctx, 200*time.Millisecond)
	b.broken = b.load.failed()
	b.progress.say("killing the server after %d answers", b.load.answered.Load())
	server.kill()
	return ctx.Err()
}

// answers is what clients were told until now.
func (l *load) answers() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.told)
}

func (l *load) failed() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.failures...)
}

// command runs the program and returns what it printed.
func (b *backups) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, b.Binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("drill: holdfast %s: %w\n%s", args[0], err, errs.String())
	}
	return out.String(), nil
}

// restore puts a backup somewhere and reads what is there, before any server does.
func (b *backups) restore(ctx context.Context, c *copied, i int) (err error) {
	dir := filepath.Join(b.place.dir, fmt.Sprintf("restored-%d", i))
	c.store, c.db = "file:"+filepath.Join(dir, "store"), "sqlite:"+filepath.Join(dir, "holdfast.db")
	if _, err = b.command(ctx, "restore", c.dir, "--store", c.store, "--db", c.db); err != nil {
		return err
	}
	c.rows.SaleID = b.place.id
	if err = readRows(ctx, c.db, &c.rows); err != nil {
		return err
	}
	if err = readPermits(ctx, c.store, &c.rows); err != nil {
		return err
	}
	c.holds, err = readHolds(ctx, c.db, b.place.id)
	return err
}

// serveAgain starts a server on the last backup and repeats requests that were answered before
// it, and one that was not.
func (b *backups) serveAgain(ctx context.Context) error {
	last := b.copies[len(b.copies)-1]
	b.progress.say("serving from the last backup")
	server, url, err := b.server("restored", last.store, last.db)
	if err != nil {
		return err
	}
	defer server.kill()
	l := newLoad(url, b.place.id, b.Rate)
	defer l.kept.CloseIdleConnections()
	for _, key := range sorted(last.before) {
		if b.found.asked++; b.found.asked > 200 {
			break
		}
		id, err := l.hold(l.kept, key, false)
		switch {
		case err != nil:
			b.found.wrong.add("%s: %v", key, err)
		case id != last.before[key]:
			b.found.wrong.add("%s had hold %s and now gets %s", key, last.before[key], id)
		default:
			b.found.same++
		}
	}
	if _, err := l.hold(l.kept, "after", false); err != nil {
		b.found.wrong.add("a new request: %v", err)
	}
	if err := server.stop(stopWithin); err != nil {
		b.found.wrong.add("the restored server did not end cleanly: %v", err)
	}
	return ctx.Err()
}

func (b *backups) judge() (checks []Check, verdict string) {
	var lost, torn, apart, happened findings
	for _, f := range b.broken {
		happened.add("before the kill: %s", f)
	}
	total := 0
	for i, c := range b.copies {
		total += len(c.before)
		for _, key := range sorted(c.before) {
			if owner, ok := c.holds[c.before[key]]; !ok || owner != key {
				lost.add("backup %d lacks hold %s of %s, which was answered before it", i+1, c.before[key], key)
			}
		}
		s := c.rows.Sale
		if int(s.Held) != len(c.holds) || s.Sold != 0 || len(c.rows.Buyers) != len(c.holds) {
			torn.add("backup %d: held %d, %d holds, %d buyers", i+1, s.Held, len(c.holds), len(c.rows.Buyers))
		}
		c.apart(i, &apart, b.Rate)
		if c.during == 0 {
			happened.add("while backup %d was made no request was sent", i+1)
		}
		if i > 0 && len(c.before) <= len(b.copies[i-1].before) {
			happened.add("nothing was answered between backups %d and %d", i, i+1)
		}
	}
	verdict = Pass
	for _, c := range []struct {
		name   string
		wrong  findings
		looked string
	}{
		{"nothing-lost", lost, fmt.Sprintf("%d answers before %d backups are in them", total, len(b.copies))},
		{"rows-agree", torn, "held units, holds and buyers are as many in each"},
		{"one-moment", apart, "every hold has its permit, and the store is not ahead"},
		{"same-answers", b.found.wrong, fmt.Sprintf("%d repeats got what they had; a new request was served", b.found.same)},
		{"storm-happened", happened, fmt.Sprintf("%d backups while requests came in, then SIGKILL", len(b.copies))},
	} {
		checks = append(checks, Check{Name: c.name, OK: len(c.wrong) == 0, Detail: c.wrong.detail(c.looked)})
		if len(c.wrong) > 0 {
			verdict = Fail
		}
	}
	return checks, verdict
}

// apart looks for signs that store and database are of two moments: a hold without its permit,
// or more permits without holds than can have been on their way.
func (c *copied) apart(i int, wrong *findings, rate int) {
	ahead := len(c.rows.Permits)
	for _, h := range c.rows.Holds {
		if _, ok := c.rows.Permits[h.Permit]; !ok {
			wrong.add("backup %d: hold %s has no permit", i+1, h.ID)
			continue
		}
		ahead--
	}
	if most := rate/10 + 10; ahead > most { // what is admitted within 100 ms
		wrong.add("backup %d: %d permits have no hold, and %d could be on their way", i+1, ahead, most)
	}
}

func (b *backups) figures() BackupFigures {
	f := BackupFigures{
		Seconds: rounded(time.Since(b.began).Seconds()), Backups: len(b.copies), Rate: b.Rate,
		Answered: len(b.load.told), Worst: b.load.quantile(1),
	}
	for _, c := range b.copies {
		f.Restored = append(f.Restored, len(c.holds))
	}
	return f
}
