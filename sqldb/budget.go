package sqldb

import "sync/atomic"

// A transaction that met a conflict is run again; but when most of them do, running all of them
// again makes it worse for all. So retries are paid for: each transaction that commits earns a
// part of one, and there is a sum to begin with. Whoever cannot pay gets ErrBusy at once.
const (
	retryPrice  = 10
	retryEarned = 2 // one retry for five that commit
	retryMost   = 1000 * retryPrice
)

// budget is what retries have left. The zero value is full.
type budget struct{ spent atomic.Int64 }

func (b *budget) spend() bool {
	for {
		was := b.spent.Load()
		if was+retryPrice > retryMost {
			return false
		}
		if b.spent.CompareAndSwap(was, was+retryPrice) {
			return true
		}
	}
}

func (b *budget) earn() {
	for {
		was := b.spent.Load()
		if was == 0 || b.spent.CompareAndSwap(was, max(0, was-retryEarned)) {
			return
		}
	}
}
