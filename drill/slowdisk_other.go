//go:build !linux

package drill

import (
	"context"
	"errors"
	"time"
)

type slowDisk struct{ nursery *nursery }

func newSlowDisk() (*slowDisk, error) {
	return nil, errors.New("drill: the fault slow-disk needs Linux")
}

func (*slowDisk) slow(context.Context, time.Duration, time.Duration) bool { return false }

func (*slowDisk) close() {}
