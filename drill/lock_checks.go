package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// written is a write as its resource has it.
type written struct {
	token int64
	owner string
	text  string
}

// look judges a round: what its holders knew, and what is in the resources.
func (r *lockRound) look(ctx context.Context, n int) error {
	d, c := r.d, chronicleOf(r.holders)
	where := fmt.Sprintf("round %d", n+1)
	d.figures.Leases += len(c.tenures)
	d.figures.Lost += c.lost
	for _, text := range c.problems {
		d.told.add("%s: %s", where, text)
	}
	there, err := r.accepted(ctx, where)
	if err != nil {
		return err
	}
	r.kept(where, c, there)
	r.ownTokens(where, c)
	r.exclusive(where, c)
	r.fifo(where, c)
	r.ended(where, c)
	return nil
}

// accepted reads what the resources took in this round, in that order, and whether a smaller token came after a
// larger one, or a token again from somebody else.
func (r *lockRound) accepted(ctx context.Context, where string) (map[string][]written, error) {
	d, all := r.d, map[string][]written{}
	for _, name := range r.names {
		rows, err := readGuarded(ctx, d.place.db, name, d.read["rows/"+name])
		if err != nil {
			return nil, err
		}
		lines, read, err := readLines(filepath.Join(d.files(), name+".log"), d.read["files/"+name])
		if err != nil {
			return nil, err
		}
		all["rows/"+name], all["files/"+name] = rows, lines
		d.read["rows/"+name], d.read["files/"+name] = d.read["rows/"+name]+int64(len(rows)), read
	}
	for _, at := range sorted(all) {
		d.figures.Accepted += len(all[at])
		d.last[at] = inOrder(where+", "+at, d.last[at], all[at], &d.stale)
		if !strings.HasSuffix(at, "/"+lasting) {
			delete(d.read, at)
		}
	}
	return all, nil
}

// inOrder finds writes that came after one with a larger token, and returns the last one.
func inOrder(where string, last written, all []written, stale *findings) written {
	for i, w := range all {
		switch {
		case w.token < last.token:
			stale.add("%s: write %d with token %d was accepted after one with %d", where, i+1, w.token, last.token)
		case w.token == last.token && w.owner != last.owner:
			stale.add("%s: write %d with token %d is not of the owner who had that token before", where, i+1, w.token)
		}
		last = w
	}
	return last
}

// kept: what a writer was told is so. An accepted write is there, and a refused one had come too late.
func (r *lockRound) kept(where string, c *chronicle, there map[string][]written) {
	for _, t := range c.tenures {
		text := fmt.Sprintf("%d-%d", t.who, t.op)
		for _, to := range t.wrote {
			at := to + "/" + t.name
			if !slices.Contains(there[at], written{t.token, t.owner, text}) {
				r.d.cause.add("%s: %s took the write %s, and has it not", where, at, text)
			}
		}
		for _, to := range t.refused {
			at := to + "/" + t.name
			r.d.figures.Late++
			if r.d.last[at].token <= t.token {
				r.d.cause.add("%s: %s refused token %d, and has taken none that is larger than %d", where, at, t.token, r.d.last[at].token)
			}
		}
	}
	for _, at := range sorted(there) {
		if !strings.HasSuffix(at, "/"+lasting) {
			delete(r.d.last, at) // nobody writes there any more
		}
	}
}

// ownTokens: no two leases of a name have a token in common, and a lease that was asked for when another
// one had been given has a larger one.
func (r *lockRound) ownTokens(where string, c *chronicle) {
	for name, all := range c.byName() {
		before := r.d.tokens[name]
		for i, t := range all { // by token
			if i > 0 && t.token == all[i-1].token {
				r.d.repeated.add("%s: token %d of %s is that of two leases", where, t.token, name)
			}
			if t.token <= before {
				r.d.repeated.add("%s: %s was given with token %d, after %d in an earlier round", where, name, t.token, before)
			}
		}
		grows(where, name, all, &r.d.repeated)
		if name == lasting {
			r.d.tokens[name] = max(before, all[len(all)-1].token)
		}
	}
}

// grows finds a lease whose token is smaller than that of one which had been given before it was asked for.
func grows(where, name string, all []tenure, wrong *findings) {
	given := slices.Clone(all)
	slices.SortFunc(given, func(a, b tenure) int { return int(min(max(a.got-b.got, -1), 1)) })
	asked := slices.Clone(all)
	slices.SortFunc(asked, func(a, b tenure) int { return int(min(max(a.asked-b.asked, -1), 1)) })
	largest, i := int64(math.MinInt64), 0
	for _, t := range asked {
		for ; i < len(given) && given[i].got < t.asked; i++ {
			largest = max(largest, given[i].token)
		}
		if t.token < largest {
			wrong.add("%s: %s was given with token %d after %d", where, name, t.token, largest)
		}
	}
}

// exclusive: the lock itself is a lock, unless its store forgot.
func (r *lockRound) exclusive(where string, c *chronicle) {
	if r.forgot() {
		for _, all := range c.byName() {
			if sharing(all) {
				continue
			}
			r.d.figures.Twice += overlaps(all)
		}
		return
	}
	r.d.figures.Judged++
	jumped := func(t tenure) bool {
		return r.windowOver(t.asked, t.knew+knowTolerance.Nanoseconds(), func(w window) bool { return w.jumps })
	}
	for name, all := range c.byName() {
		if sharing(all) {
			r.d.figures.Together += together(where+", "+name, all, jumped, &r.d.shares)
			continue
		}
		switch porcupine.CheckOperationsTimeout(lockModel, lockHistory(all, jumped), checkTime) {
		case porcupine.Illegal:
			r.d.apart.add("%s: %s: %d leases of %s have no order in which each ends before the next begins%s", where, r.store.name, len(all), name, firstOverlap(all))
		case porcupine.Unknown:
			r.d.happened.add("%s: the history of %s was not decided in time", where, name)
		}
	}
}

// overlaps counts leases that were given while the holder of the one before still believed in it.
func overlaps(all []tenure) (n int) {
	for i := 1; i < len(all); i++ {
		if all[i-1].knew > all[i].got {
			n++
		}
	}
	return n
}

// firstOverlap names two leases that were believed in at one time, for whoever reads the report.
func firstOverlap(all []tenure) string {
	for i, t := range all {
		if i > 0 && all[i-1].knew > t.got {
			a := all[i-1]
			return fmt.Sprintf(" (holder %d held %d until %.0f ms after holder %d had been given %d)", a.who, a.token, float64(a.knew-t.got)/1e6, t.who, t.token)
		}
	}
	return ""
}

func (r *lockRound) forgot() bool {
	return slices.ContainsFunc(r.windows, func(w window) bool { return w.forgets })
}

func (r *lockRound) windowOver(from, to int64, which func(window) bool) bool {
	return anyOver(r.windows, time.Unix(0, from), time.Unix(0, to), which)
}

// troubled: something was the matter with the store.
func troubled(w window) bool { return w.fault != noFault }

// noticed is how long after a fault somebody may meet it: a connection that broke is noticed when it is used next.
const noticed = 3 * time.Second

// fifoTolerance is how much earlier one has to have asked, to be served before another.
const fifoTolerance = 500 * time.Millisecond

// fifo: of two who waited, the one who came clearly first was served first. Whoever did not run, or could not reach
// the store, while it waited may have lost its place.
func (r *lockRound) fifo(where string, c *chronicle) {
	for name, all := range c.byName() {
		for i, first := range all {
			for _, later := range all[i+1:] {
				// first has the smaller token, so it was served first.
				if later.asked+fifoTolerance.Nanoseconds() >= first.asked {
					continue
				}
				if c.stalledIn(later.who, later.asked, first.got) || r.windowOver(later.asked-fifoTolerance.Nanoseconds(), first.got, troubled) {
					continue
				}
				r.d.order.add("%s: holder %d asked for %s %.0f ms before holder %d, and was served after it", where,
					later.who, name, float64(first.asked-later.asked)/1e6, first.who)
			}
		}
	}
}

// endTolerance is how long after its deadline a wait may end.
const endTolerance = time.Second

// ended: each wait of one that was not killed ended with the lock, or with its own deadline, in time; and a store
// that was gone was the reason for the rest.
func (r *lockRound) ended(where string, c *chronicle) {
	for _, q := range c.questions {
		took := time.Duration(q.ended - q.asked)
		switch {
		case q.ended == 0:
			if !c.killed[q.who] {
				r.d.waiting.add("%s: holder %d has had no answer for %s", where, q.who, q.name)
			}
			continue
		case q.got:
			r.d.waits = append(r.d.waits, float64(took)/1e6)
		case q.err == "deadline":
			r.d.figures.Deadline++
			if took < time.Duration(q.within)-5*time.Millisecond {
				r.d.waiting.add("%s: holder %d gave up on %s after %s, not after %s", where, q.who, q.name, took, time.Duration(q.within))
			}
		case q.err == "ended":
		case !r.windowOver(q.asked-noticed.Nanoseconds(), q.ended, troubled):
			r.d.told.add("%s: nothing was the matter with the store, and holder %d was told: %s", where, q.who, q.err)
		}
		if took > time.Duration(q.within)+endTolerance && !c.stalledIn(q.who, q.asked, q.ended) {
			r.d.waiting.add("%s: holder %d waited %s for %s, its deadline was %s", where, q.who, took, q.name, time.Duration(q.within))
		}
	}
	for _, t := range c.tenures {
		if t.answered > 0 && t.outcome != "" && t.outcome != "lost" && !r.windowOver(t.released-noticed.Nanoseconds(), t.answered, troubled) {
			r.d.told.add("%s: nothing was the matter with the store, and a release was answered: %s", where, t.outcome)
		}
	}
}

// readGuarded reads what a table has taken for a name, after the first few.
func readGuarded(ctx context.Context, raw, name string, after int64) (all []written, err error) {
	db, err := openDB(raw)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, `SELECT token, owner, text FROM guarded_writes WHERE resource = $1 AND n > $2 ORDER BY n`, name, after)
	if err != nil {
		return nil, fmt.Errorf("drill: database: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var w written
		if err := rows.Scan(&w.token, &w.owner, &w.text); err != nil {
			return nil, fmt.Errorf("drill: database: %w", err)
		}
		all = append(all, w)
	}
	return all, rows.Err()
}

// readLines reads what a file has taken from a byte on, and up to which byte.
func readLines(file string, from int64) (all []written, to int64, err error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, from, nil
	}
	if err != nil {
		return nil, from, fmt.Errorf("drill: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, from, math.MaxInt64-from))
	if err != nil {
		return nil, from, fmt.Errorf("drill: %w", err)
	}
	for line := range bytes.Lines(data) {
		words := strings.Fields(string(line))
		if len(words) != 3 {
			return nil, from, fmt.Errorf("drill: %s: %q is no write", file, line)
		}
		token, err := strconv.ParseInt(words[0], 10, 64)
		if err != nil {
			return nil, from, fmt.Errorf("drill: %s: %w", file, err)
		}
		all = append(all, written{token, words[1], words[2]})
	}
	return all, from + int64(len(data)), nil
}
