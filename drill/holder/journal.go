package holder

import (
	"context"
	"time"

	journals "github.com/holdfast-dev/holdfast/drill/journal"
)

// Event is a line of a holder's journal. The drill reads the same by a type of its own.
type Event struct {
	At       int64  `json:"at"` // ns since 1970
	Kind     string `json:"kind"`
	Op       int    `json:"op,omitempty"`
	Name     string `json:"name,omitempty"`
	Token    int64  `json:"token,omitempty"`
	Owner    string `json:"owner,omitempty"`
	Careless bool   `json:"careless,omitempty"`
	Linger   bool   `json:"linger,omitempty"`
	To       string `json:"to,omitempty"`
	Status   int    `json:"status,omitempty"`
	For      int64  `json:"for,omitempty"` // ns
	Shared   bool   `json:"shared,omitempty"`
	Permits  int64  `json:"permits,omitempty"`
	Of       int64  `json:"of,omitempty"`
	Err      string `json:"err,omitempty"`
}

// journal is the holder's.
type journal struct{ *journals.Journal }

func openJournal(name string) (journal, error) {
	j, err := journals.Open(name)
	return journal{j}, err
}

func (j journal) write(e Event) {
	j.Write(func(at int64) any {
		e.At = at
		return e
	})
}

func (j journal) watchStalls(ctx context.Context) {
	journals.WatchStalls(ctx, func(took time.Duration) { j.write(Event{Kind: "stall", For: took.Nanoseconds()}) })
}
