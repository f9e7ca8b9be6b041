// Package replay says what rules would have decided over a recorded log.
//
// Promised: each line is decided by the algorithms that serve, on an embedded store in memory of which the log's times are
// the clock, in the order of the log. The same log and the same rules have the same verdicts, however fast the machine is.
// A line that cannot be read, or that is earlier than the one before it, ends the replay with its number (sort the log
// first): nothing is guessed and nothing left out.
//
// Not promised: that callers would have done the same. Who is refused comes back, or does not; the log knows only what
// they did without these rules. Rules that are Leased are decided by the store, as if they were not; a store that is slow or gone
// is not replayed. The log's clock decides, not that of the engine that will.
//
// A line of a log is a JSON object:
//
//	{"time": "2026-11-28T09:00:00.25Z", "domain": "shop", "descriptors": [[{"key": "tenant", "value": "ada"}]], "hits": 1, "took_ms": 12.5}
//
// Time is RFC 3339, of which microseconds are kept. Hits (by default 1) are units of each rule; took_ms is how long
// the call held slots of concurrency rules, which otherwise end with their lease. [Combined] reads what web servers write.
//
// Memory: what the rules remember of the keys that are in use at a time, bounded by 1 GiB and 1,000,000 keys; a log that needs more ends
// with an error. The length of the log does not matter.
package replay

import (
	"bufio"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/ratelimit"
	"github.com/holdfast-dev/holdfast/store"
)

// ErrTooMuch: the log uses more keys at a time than are remembered.
var ErrTooMuch = errors.New("replay: too many keys at a time")

// LineError says which line of a log ended the replay.
type LineError struct {
	Line int64
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap is the reason.
func (e *LineError) Unwrap() error { return e.Err }

// Options of Run. The zero value works.
type Options struct {
	// Parse reads a line; by default JSON.
	Parse Parse
	// Progress, if set, is told about every two seconds how many lines were decided.
	Progress func(lines int64)

	every time.Duration // between calls of Progress
}

const (
	progressEvery = 2 * time.Second
	looksAtClock  = 1024 // lines between looks whether it is time for Progress
	maxKeys       = 1_000_000
)

// run is a replay. Its clock is the store's.
type run struct {
	clock  atomic.Int64 // µs
	limits *ratelimit.Limiter
	rules  *ratelimit.Rules
	ends   ends // of calls that hold slots
	report *Report
	sums   sums
}

// Run decides the lines of a log. Errors: a *LineError; ErrTooMuch within it; what ends the context or the reading.
func Run(ctx context.Context, rules *ratelimit.Rules, log io.Reader, o Options) (_ *Report, err error) {
	if o.Parse == nil {
		o.Parse = JSON
	}
	if o.Progress == nil {
		o.Progress = func(int64) {}
	}
	if o.every == 0 {
		o.every = progressEvery
	}
	r := &run{rules: rules, report: &Report{}, sums: newSums(rules)}
	r.clock.Store(earliest.UnixMicro())
	s, err := store.Open(ctx, "mem:", store.Options{Clock: func() time.Time { return time.UnixMicro(r.clock.Load()) }})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r.limits, err = ratelimit.New(s, rules, ratelimit.Options{Timeout: 10 * time.Second, Strict: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.limits.Close(context.WithoutCancel(ctx))) }()
	if err := r.lines(ctx, log, o); err != nil {
		return nil, err
	}
	r.report.Rules = r.sums.list()
	return r.report, nil
}

func (r *run) lines(ctx context.Context, log io.Reader, o Options) error {
	scan := bufio.NewScanner(log)
	scan.Buffer(nil, MaxLine)
	told := time.Now()
	for scan.Scan() {
		r.report.Lines++
		c, err := o.Parse(scan.Bytes())
		if err == nil {
			err = r.call(ctx, c)
		}
		if err != nil {
			return &LineError{r.report.Lines, err}
		}
		if r.report.Lines%looksAtClock == 0 && time.Since(told) >= o.every {
			told = time.Now()
			o.Progress(r.report.Lines)
		}
	}
	if err := scan.Err(); errors.Is(err, bufio.ErrTooLong) {
		return &LineError{r.report.Lines + 1, fmt.Errorf("has more than %d bytes", MaxLine)}
	} else if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	return nil
}

// call decides one call, at its time.
func (r *run) call(ctx context.Context, c Call) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	at := c.Time.UnixMicro()
	if at < r.clock.Load() {
		return fmt.Errorf("is earlier (%s) than the line before it (%s): sort the log by time",
			c.Time.UTC().Format(time.RFC3339Nano), time.UnixMicro(r.clock.Load()).UTC().Format(time.RFC3339Nano))
	}
	if err := r.giveBack(ctx, at); err != nil {
		return err
	}
	if !mutant.ReplayClock {
		r.clock.Store(at)
	}
	r.report.saw(c.Time)
	reqs, _ := r.rules.Match(c.Domain, c.Hits, c.Descriptors...)
	if len(reqs) == 0 {
		r.report.Unmatched++
		return nil
	}
	d, err := r.limits.Allow(ctx, reqs)
	var field *ratelimit.FieldError
	switch {
	case errors.As(err, &field):
		r.report.invalid(r.report.Lines, err)
		return nil
	case err != nil:
		return err
	case d.Source == ratelimit.FromPolicy:
		return fmt.Errorf("cannot be decided: the store in memory did not answer, or is full: %w", ErrTooMuch)
	}
	return r.note(c, d)
}

// note counts what was decided.
func (r *run) note(c Call, d ratelimit.Decision) error {
	if d.Allowed {
		r.report.Admitted++
	} else {
		r.report.Refused++
	}
	slots := false
	for _, st := range d.Statuses {
		if err := r.sums.add(st, d.Allowed, r.report.Lines, c.Time); err != nil {
			return err
		}
		slots = slots || st.Algorithm == ratelimit.Concurrency
	}
	if slots && d.Allowed && c.Took > 0 {
		if len(r.ends) >= maxKeys {
			return ErrTooMuch
		}
		heap.Push(&r.ends, end{c.Time.Add(c.Took).UnixMicro(), d})
	}
	return nil
}

// giveBack ends the calls that were over by a time, each at its own.
func (r *run) giveBack(ctx context.Context, at int64) error {
	for len(r.ends) > 0 && r.ends[0].at <= at {
		over := heap.Pop(&r.ends).(end)
		r.clock.Store(over.at)
		if err := over.decision.Release(ctx); err != nil {
			return err
		}
	}
	return nil
}

// end is when a call that holds slots is over.
type end struct {
	at       int64 // µs
	decision ratelimit.Decision
}

// ends is a heap, the next one first.
type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at < e[j].at }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = slices.Delete(*e, len(*e)-1, len(*e))
	return last
}
