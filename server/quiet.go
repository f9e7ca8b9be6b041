package server

import (
	"sync"
	"time"
)

// quietFor is how long a line of one kind keeps others of its kind out of the log.
const quietFor = time.Second

// quiet keeps the log from growing with the load: who is refused by the ten thousand a second is
// refused at once because that costs next to nothing, and a line for each would cost more than that.
// The metrics count them all. The zero value is ready.
type quiet struct {
	mu    sync.Mutex
	kinds map[string]*silence // as many as there are kinds
}

type silence struct {
	until time.Time
	kept  int64 // lines kept out since the last one
}

// line says whether a line of this kind may be written now, and how many were not since the last.
func (q *quiet) line(kind string, now time.Time) (kept int64, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.kinds == nil {
		q.kinds = map[string]*silence{}
	}
	s := q.kinds[kind]
	if s == nil {
		s = &silence{}
		q.kinds[kind] = s
	}
	if now.Before(s.until) {
		s.kept++
		return 0, false
	}
	kept, s.kept = s.kept, 0
	s.until = now.Add(quietFor)
	return kept, true
}
