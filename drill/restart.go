package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// RestartOptions of Restart. The zero value is a drill on the embedded engines.
type RestartOptions struct {
	Store    string    // store URL, or redis-server or valkey-server[?class=b], or nodes; default: file: in a temporary directory
	DB       string    // database URL, or postgres; default: SQLite in a temporary directory
	Rounds   int       // restarts, 1..1000; default 8
	Rate     int       // requests a second, 1..10,000; default 200
	Seed     uint64    // of the moments; 0: a random one
	Binary   string    // the program to run servers with; default: this one
	Progress io.Writer // a line for each phase; nil: none
}

// RestartFigures are measured by the clients; they judge nothing.
type RestartFigures struct {
	Seconds  float64 `json:"seconds"`
	Restarts int     `json:"restarts"`
	Rate     int     `json:"rate_per_s"` // asked for
	Answered int     `json:"answered"`
	PerS     float64 `json:"answered_per_s"`
	P50      float64 `json:"p50_ms"` // from the moment a request was due
	P99      float64 `json:"p99_ms"`
	Worst    float64 `json:"worst_ms"`
}

// Restart runs the restart drill: a server is replaced by the next one, again and again, while
// clients ask for holds at a fixed rate, however long answers take. The listener is handed from
// one to the other. With a store and a database that can be shared the next server is up before
// the last one ends; a server on file: or SQLite has to end first. An error means that there is
// no verdict.
func Restart(ctx context.Context, o RestartOptions) (Report, error) {
	o.Rounds, o.Rate = orElse(o.Rounds, 8), orElse(o.Rate, 200)
	if o.Seed == 0 {
		o.Seed = 1 + rand.Uint64N(maxSeed-1)
	}
	own, err := ownedBy(o.Store, o.DB)
	if err != nil {
		return Report{}, err
	}
	class, err := own.class(o.Store)
	switch {
	case err != nil:
		return Report{}, err
	case o.Rounds < 1 || o.Rounds > 1000:
		return Report{}, fmt.Errorf("drill: %d rounds is not in 1..1000", o.Rounds)
	case o.Rate < 1 || o.Rate > 10_000:
		return Report{}, fmt.Errorf("drill: a rate of %d is not in 1..10000", o.Rate)
	case class == "C" && own.store == "" && !isRemote(o.Store):
		return Report{}, errors.New("drill: mem: is gone with its server")
	}
	if o.Binary == "" {
		if o.Binary, err = os.Executable(); err != nil {
			return Report{}, fmt.Errorf("drill: %w", err)
		}
	}
	r := &restarts{
		RestartOptions: o, progress: &progress{out: o.Progress, began: time.Now()}, began: time.Now(),
		rng: rand.New(rand.NewPCG(o.Seed, 0)), own: own, shared: own.shared(o.Store, o.DB),
	}
	report := Report{Drill: "restart", Class: class, Seed: o.Seed}
	return report, r.run(ctx, &report)
}

// restarts is one drill.
type restarts struct {
	RestartOptions
	progress *progress
	began    time.Time
	rng      *rand.Rand
	own      owned
	shared   bool // the engines bear two servers at once
	place    *place
	nursery  *nursery
	listener *os.File
	url      string
	server   *child
	starts   int

	unclean []string
	idle    int // restarts during which nothing was on its way
}

func (r *restarts) run(ctx context.Context, report *Report) (err error) {
	r.progress.say("restart drill: %d restarts at %d requests a second, seed %d", r.Rounds, r.Rate, r.Seed)
	r.nursery = newNursery()
	defer r.nursery.close()
	if r.place, err = newPlace(ctx, named(r.Store, r.own.store != ""), named(r.DB, r.own.db)); err != nil {
		return err
	}
	failed := false
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, r.place.clear(ctx, failed))
	}()
	// Two servers at a time, and what is left of a third.
	engines := hired{owned: r.own, binary: r.Binary, servers: 3, place: r.place, nursery: r.nursery, progress: r.progress}
	if err := engines.start(ctx); err != nil {
		return err
	}
	l, err := r.storm(ctx)
	if err != nil {
		return err
	}
	holds, err := readHolds(ctx, r.place.db, r.place.id)
	if err != nil {
		return err
	}
	report.Checks, report.Verdict = r.judge(l, holds)
	report.Figures = r.figures(l)
	if failed = !report.Passed(); failed {
		report.Kept = r.place.dir
	}
	r.progress.say("%s", report.Verdict)
	return nil
}

// storm replaces servers while the load goes on.
func (r *restarts) storm(ctx context.Context) (*load, error) {
	if err := r.listen(); err != nil {
		return nil, err
	}
	defer r.listener.Close()
	var err error
	if r.server, err = r.next(); err != nil {
		return nil, err
	}
	defer func() { r.server.kill() }()
	l := newLoad(r.url, r.place.id, r.Rate)
	if err := l.createSale(ctx); err != nil {
		return nil, err
	}
	l.start(ctx)
	defer l.end()
	for i := range r.Rounds {
		pause := 200*time.Millisecond + time.Duration(r.rng.Int64N(int64(200*time.Millisecond)))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if err := r.replace(l, i); err != nil {
			return nil, err
		}
	}
	l.end()
	if err := r.server.stop(stopWithin); err != nil {
		r.unclean = append(r.unclean, fmt.Sprintf("the last server did not end cleanly: %v", err))
	}
	return l, ctx.Err()
}

// listen makes the listener that all servers share, one after the other.
func (r *restarts) listen() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	r.url = "http://" + l.Addr().String()
	r.listener, err = l.(*net.TCPListener).File() // a second handle of the same listener
	if err = errors.Join(err, l.Close()); err != nil {
		return fmt.Errorf("drill: %w", err)
	}
	return nil
}

// next starts a server on the listener.
func (r *restarts) next() (*child, error) {
	r.starts++
	ready := filepath.Join(r.place.dir, fmt.Sprintf("ready-%d", r.starts))
	// The process that reads LISTEN_PID has to be the one that it names.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, r.Binary,
		"serve", "--log-level", "warn", "--ready-file", ready, "--store", r.place.store, "--db", r.place.db,
		"--provider", "http://127.0.0.1:1") // nobody pays
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1")
	cmd.ExtraFiles = []*os.File{r.listener}
	c, err := r.nursery.run(cmd, filepath.Join(r.place.dir, fmt.Sprintf("server-%d.log", r.starts)))
	if err != nil {
		return nil, err
	}
	if _, err := c.ready(ready, readyWithin); err != nil {
		c.kill()
		return nil, err
	}
	return c, nil
}

// replace puts the next server in the place of the last.
func (r *restarts) replace(l *load, round int) (err error) {
	last := r.server
	var next *child
	if r.shared {
		if next, err = r.next(); err != nil {
			return err
		}
		r.server = next
	}
	waiting, sent := l.inFlight.Load(), l.sent.Load()
	if err := last.stop(stopWithin); err != nil {
		r.unclean = append(r.unclean, fmt.Sprintf("server %d did not end cleanly: %v", round, err))
	}
	if next == nil {
		if next, err = r.next(); err != nil {
			return err
		}
	}
	if waiting == 0 && l.sent.Load() == sent {
		r.idle++
	}
	r.server = next
	r.progress.say("restart %d of %d; %d answers", round+1, r.Rounds, l.answered.Load())
	return nil
}

// judge looks at everything.
func (r *restarts) judge(l *load, holds map[string]string) (checks []Check, verdict string) {
	var failed, lost, twice, happened findings
	for _, f := range l.failures {
		failed.add("%s", f)
	}
	keys := map[string]string{} // hold → key
	for _, key := range sorted(l.told) {
		hold := l.told[key]
		switch owner, ok := holds[hold]; {
		case !ok:
			lost.add("hold %s of %s was answered and is not there", hold, key)
		case owner != key:
			twice.add("hold %s was answered to %s and is %s's", hold, key, owner)
		}
		if other := keys[hold]; other != "" {
			twice.add("hold %s was answered to %s and to %s", hold, other, key)
		}
		keys[hold] = key
	}
	for _, hold := range sorted(holds) {
		if owner := holds[hold]; l.told[owner] != hold {
			twice.add("hold %s of %s is there, and the answer was %q", hold, owner, l.told[owner])
		}
	}
	happened = append(happened, r.unclean...)
	if r.idle > 0 {
		happened.add("at %d of %d restarts no request was on its way", r.idle, r.Rounds)
	}
	if want := int(0.9 * float64(r.Rate) * l.lasted.Seconds()); len(l.told) < want {
		happened.add("%d requests were answered in %.1f s, the storm should have had %d", len(l.told), l.lasted.Seconds(), want)
	}
	verdict = Pass
	for _, c := range []struct {
		name   string
		wrong  findings
		looked string
	}{
		{"none-failed", failed, fmt.Sprintf("%d requests, %d of them on connections of their own", len(l.told), l.fresh)},
		{"none-lost", lost, fmt.Sprintf("%d holds are what their clients were told", len(l.told))},
		{"none-twice", twice, fmt.Sprintf("%d keys, %d holds", len(l.told), len(holds))},
		{"storm-happened", happened, fmt.Sprintf("%d restarts, servers ended cleanly", r.Rounds)},
	} {
		checks = append(checks, Check{Name: c.name, OK: len(c.wrong) == 0, Detail: c.wrong.detail(c.looked)})
		if len(c.wrong) > 0 {
			verdict = Fail
		}
	}
	return checks, verdict
}

func (r *restarts) figures(l *load) RestartFigures {
	f := RestartFigures{
		Seconds: rounded(time.Since(r.began).Seconds()), Restarts: r.Rounds, Rate: r.Rate,
		Answered: len(l.told), PerS: rounded(float64(len(l.told)) / l.lasted.Seconds()),
	}
	f.P50, f.P99, f.Worst = l.quantile(0.5), l.quantile(0.99), l.quantile(1)
	return f
}
