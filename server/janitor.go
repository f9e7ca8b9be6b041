package server

import (
	"context"
	"time"

	"github.com/holdfast-dev/holdfast/internal/idem"
	"github.com/holdfast-dev/holdfast/ledger"
	"github.com/holdfast-dev/holdfast/sqldb"
)

const (
	cleanEvery = time.Minute
	cleanBatch = 1000
)

// janitor removes what has outlived its time: stored answers, events, pending transfers.
func (s *Server) janitor() {
	tick := time.NewTicker(cleanEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.clean(s.work)
		case <-s.work.Done():
			return
		}
	}
}

func (s *Server) clean(ctx context.Context) {
	for what, batch := range map[string]func() (int64, error){
		"stored answers": func() (int64, error) { return idem.Sweep(ctx, s.DB, cleanBatch) },
		"events":         func() (int64, error) { return s.DB.TrimEvents(ctx, s.KeepEvents, cleanBatch) },
		"transfers": func() (int64, error) {
			var n int
			err := s.DB.Write(ctx, func(ctx context.Context, tx *sqldb.Tx) (err error) {
				n, err = ledger.Expire(ctx, tx, cleanBatch)
				return err
			})
			return int64(n), err
		},
	} {
		for {
			n, err := batch()
			if err != nil && ctx.Err() == nil {
				s.Logger.Warn("cleaning", "what", what, "error", err)
			}
			if err != nil || n < cleanBatch {
				break
			}
		}
	}
}
