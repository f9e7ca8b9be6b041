package ratelimit

import (
	_ "embed"
	"strings"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/store"
)

//go:embed lease.lua
var leaseLua string

// leaseIn is what a process wants of one key's budget. What it says of the past it says in sums since the lease's
// epoch began, so that a request whose answer was lost is made good by the next one, and none counts twice.
type leaseIn struct {
	Key    string `store:"key"`
	Record string `store:"key"` // the process' own
	Kind   string
	Most   int64
	Span   int64
	Seq    int64 // grows with each request of the process for the key
	Epoch  int64 // of the last answer
	Known  int64 // units granted in the epoch, as far as the answers came
	Back   int64 // units given back in the epoch
	Held   int64 // units that it keeps
	Want   int64
	Parts  int64 // it holds at most one part in so many
	Life   int64 // of the lease at most, µs; 0: the process ends with the key
}

type leaseOut struct {
	Stale   bool  // a later request of the process was decided before; nothing was written
	Granted int64 // units
	Epoch   int64 // µs: of a window its start, of a bucket when the record was made
	Life    int64 // how long they can be used from now, µs
	Left    int64 // units that could be taken
	Wait    int64 // µs until more than that is left
	Enough  int64 // µs until a share of the whole is left
}

// leaseRecord is a process' record: "seq epoch granted back".
type leaseRecord struct{ seq, epoch, granted, back int64 }

func readRecord(tx *store.Tx, key string) (r leaseRecord, ok bool) {
	v, ok := tx.Get(key)
	if !ok {
		return r, false
	}
	for _, to := range []*int64{&r.seq, &r.epoch, &r.granted, &r.back} {
		var n string
		n, v, _ = strings.Cut(v, " ")
		*to = num(n)
	}
	return r, true
}

// floorParts: however little of a window is left, a lease may have one part in so many of its share of the
// whole. Without that the last units of a window would be asked for one by one.
const floorParts = 4

// leaseDecision gives back what a process no longer wants or never heard of, and takes what it wants. What is leased is
// counted like what is admitted.
var leaseDecision = store.Decide("ratelimit.lease", store.Lua(meterLua+leaseLua), func(tx *store.Tx, in leaseIn) leaseOut {
	m := load(tx, in.Key, rate{in.Kind, in.Most, in.Span}, 0, "")
	had, ok := readRecord(tx, in.Record)
	if ok && in.Seq <= had.seq {
		return leaseOut{Stale: true}
	}
	now := leaseRecord{in.Seq, m.start, in.Known, in.Back}
	if m.kind == kindToken {
		if now.epoch = m.now; ok {
			now.epoch = had.epoch
		}
	}
	if ok {
		back := had.granted - had.back // it knows of none
		if mutant.LeaseUntold {
			back = 0
		} else if in.Epoch == had.epoch {
			back += in.Back - in.Known
		}
		if back > 0 {
			if mutant.BackTwice {
				back *= 2
			}
			m.settle(had.epoch, 0, -back, "")
			m.empty = max(m.empty, m.now)
		}
	}
	held := in.Held
	if in.Epoch != now.epoch {
		now.granted, now.back, held = 0, 0, 0
	}
	got := max(min(in.Want, m.share(in.Parts)-held, m.left()), 0)
	if got > 0 {
		m.take(got, "")
		now.granted += got
	}
	out := leaseOut{Granted: got, Epoch: now.epoch, Life: in.Life, Left: m.left()}
	until := m.now + 4*in.Life
	if m.kind != kindToken {
		out.Life, until = min(in.Life, m.rest()), m.start+2*m.span
	}
	if out.Left < m.most {
		out.Wait = m.wait(out.Left + 1)
		out.Enough = m.wait(max(m.most/in.Parts, 1))
	}
	if in.Life == 0 {
		tx.Del(in.Record)
		return out
	}
	tx.Set(in.Record, spaced(now.seq, now.epoch, now.granted, now.back), store.Until(until))
	return out
})

// share is how many units a process may hold.
func (m *meter) share(parts int64) int64 {
	n := m.most / parts
	if m.kind == kindFixed { // less and less towards the end of a window's budget
		n = max(m.left()/parts, n/floorParts)
	}
	return max(n, 1)
}
