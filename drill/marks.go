package drill

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// marks are writes of the drill's own to the store, beside those of the servers, as long as the
// storm lasts: what the store itself has acknowledged is there afterwards, where its class says so.
// What SQL makes good in a sale, they show.
type marks struct {
	dial func() (*respConn, error)

	mu       sync.Mutex // held for a whole mark, from its question to its record
	acked    []int
	conn     *respConn
	promised bool
}

// marked is what became of them.
type marked struct {
	Promised bool // by the store's class
	Acked    int
	Lost     []int
}

// markEvery is short: what was acknowledged last is what a leader that dies takes with it.
const markEvery = time.Millisecond

func markKey(n int) string { return "drill:mark:" + strconv.Itoa(n) }

// write makes marks until ctx is done. One whose answer did not come is not counted.
func (m *marks) write(ctx context.Context) {
	defer m.hangUp()
	for n := 0; wait(ctx, markEvery); n++ {
		m.mark(n)
	}
}

func (m *marks) mark(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn == nil {
		var err error
		if m.conn, err = m.dial(); err != nil {
			return
		}
	}
	answer, err := m.conn.do([]string{"SET", markKey(n), "1"})
	switch {
	case err != nil:
		m.hangUp() // also a refusal: the engine may be one that does not lead
	case answer == "OK":
		m.acked = append(m.acked, n)
	}
}

func (m *marks) hangUp() {
	if m.conn != nil {
		_ = m.conn.Close()
		m.conn = nil
	}
}

// during lets the store be emptied while no mark is on its way, and forgets those that were there.
func (m *marks) during(empty func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := empty()
	m.acked = nil
	return err
}

// read looks which of them are there, when writing is over.
func (m *marks) read() (*marked, error) {
	const most = 500
	c, err := m.dial()
	if err != nil {
		return nil, fmt.Errorf("drill: store: %w", err)
	}
	defer c.Close()
	told := &marked{Promised: m.promised, Acked: len(m.acked)}
	for from := 0; from < len(m.acked); from += most {
		page := m.acked[from:min(from+most, len(m.acked))]
		words := []string{"MGET"}
		for _, n := range page {
			words = append(words, markKey(n))
		}
		answer, err := c.do(words)
		if err != nil {
			return nil, fmt.Errorf("drill: store: %w", err)
		}
		values, _ := answer.([]any)
		for i, n := range page {
			if i >= len(values) || values[i] != "1" {
				told.Lost = append(told.Lost, n)
			}
		}
	}
	return told, nil
}

// storeKeptItsWord: what the store acknowledged to the drill itself is there, on the classes that
// promise it.
func storeKeptItsWord(e *evidence) (wrong findings, looked string) {
	m := e.Marks
	if m == nil {
		return nil, "not looked at: the store is not one that the drill has started"
	}
	if m.Acked == 0 {
		wrong.add("the store acknowledged nothing to the drill")
	}
	if !m.Promised {
		return wrong, fmt.Sprintf("class C promises nothing: of %d acknowledged writes %d are gone", m.Acked, len(m.Lost))
	}
	for _, n := range m.Lost {
		wrong.add("write %d was acknowledged and is gone", n)
	}
	return wrong, fmt.Sprintf("%d acknowledged writes are there", m.Acked)
}
